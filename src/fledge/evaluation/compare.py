"""Compare two models on the same text: which one is better, and is the difference more than an accident?"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.evaluation.bootstrap import Difference, paired_bootstrap
from fledge.evaluation.metrics import UnitSums


@dataclass(frozen=True, kw_only=True)
class TextComparison(Difference):
    """In bits per byte, the first model minus the second: negative where the first is better."""

    unit: str  # document, or block: a part of a long document
    same_tokenizer: bool  # False: loss, perplexity and accuracy per token cannot be compared
    verdict: str


def compare_texts(first: UnitSums, second: UnitSums, names: tuple[str, str], *, same_tokenizer: bool) -> TextComparison:
    """A paired bootstrap over the documents of the text, or over blocks of long ones."""
    if not np.array_equal(first.units.bytes, second.units.bytes):
        raise UserError(
            f"'{names[0]}' and '{names[1]}' would be evaluated on different text",
            "compare runs whose datasets were prepared from the same text with the same data.val",
        )
    by_block = len(first.units.starts) == len(second.units.starts)
    sums = [_sums(each, by_block=by_block) for each in (first, second)]
    found = paired_bootstrap(sums[0][0] / math.log(2), sums[1][0] / math.log(2), sums[0][1], sums[1][1])
    unit = "document" if found.units == len(first.units.bytes) else "block"
    verdict = _verdict(found, names, counted(found.units, unit))
    return TextComparison(**vars(found), unit=unit, same_tokenizer=same_tokenizer, verdict=verdict)


def _sums(sums: UnitSums, *, by_block: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nats and bytes: of each unit, or of each document."""
    if by_block:
        return sums.nats, sums.bytes.astype(np.float64)
    of, count = sums.units.documents, len(sums.units.bytes)
    nats, lengths = np.bincount(of, sums.nats, count), np.bincount(of, sums.bytes, count)
    return nats.astype(np.float64), lengths.astype(np.float64)


def _verdict(found: Difference, names: tuple[str, str], units: str) -> str:
    if math.isnan(found.p_value):
        return f"{units}: too few to tell whether the difference of {found.difference:+.4f} bits per byte is real"
    if not found.difference:
        return "both are equally good on this text"
    better, worse = names if found.difference < 0 else names[::-1]
    size = f"{abs(found.difference):.4f} bits per byte"
    if found.is_significant:
        return f"{better} is better than {worse}, by {size} (p = {found.p_value:.2g})"
    return f"no clear difference: {better} is ahead by {size}, which may be chance (p = {found.p_value:.2g})"
