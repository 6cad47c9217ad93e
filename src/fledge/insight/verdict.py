"""Is a text copied? From the share of it that stands in passages of the training data that some step has learned.

Words that everybody writes match by chance. How long such matches get is measured on the validation split, which the
model has not learned from: of 20 of its passages with the length of the text, 19 have no match of `minimum` tokens.
Only matches that long count as copied.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fledge.core.formatting import counted
from fledge.datasets.shards import Dataset
from fledge.insight.suffix_array import SuffixArray

HELD_OUT, HELD_OUT_TOKENS, ALLOWED = 20, 512, 0.05  # texts to compare with, their length, and how many may match
FEWEST_HELD_OUT = 5
LEAST, MOST = 4, 50  # bounds of `minimum`; 50 tokens is the usual limit in studies of memorization
COPIED = 0.8  # of a text
SEPARATOR = -3  # no id, so that no match spans it: between texts that are looked up together
Verdict = Literal["copied", "partly copied", "new", "too short"]


@dataclass(frozen=True)
class Evidence:
    """What was found of a text, in matches of at least `minimum` tokens. Shares are of its tokens."""

    step: int  # of the checkpoint: what later steps learned does not count
    minimum: int
    compared: int | None  # unseen texts that `minimum` was measured on; None: it was given
    length: int  # of the text, in tokens
    copied: float  # share in matches that a step has learned
    unlearned: float = 0.0  # share in other matches

    @property
    def verdict(self) -> Verdict:
        if self.length < self.minimum:
            return "too short"
        return "copied" if self.copied >= COPIED else "partly copied" if self.copied > 0 else "new"

    @property
    def explanation(self) -> str:
        least = self.minimum
        if self.verdict == "too short":
            length = counted(self.length, "token")
            return f"the text has {length}; matches of fewer than {least} say nothing: any text has some"
        return "; ".join([self._matches, *self._comparison])

    @property
    def _matches(self) -> str:
        where = f"word for word in the training data, in passages of {self.minimum} or more tokens"
        no_step = f"no step up to {self.step:,} has learned"
        if not self.copied:
            nothing = f"no passage of {self.minimum} or more tokens stands in the training data"
            return (
                f"{self.unlearned:.0%} of the text stands {where}, but {no_step} these" if self.unlearned else nothing
            )
        more = f"; another {self.unlearned:.0%} stands there too, but {no_step} it" if self.unlearned else ""
        return f"{self.copied:.0%} of the text stands {where}{more}"

    @property
    def _comparison(self) -> list[str]:
        if self.compared:
            least = self.compared - int(ALLOWED * self.compared)
            return [f"at least {least} of {self.compared} unseen texts of this length have no match that long"]
        if self.compared is None:
            return []
        return [f"there were too few unseen texts to compare with, so a match counts from {self.minimum} tokens on"]


def chance_length(array: SuffixArray, dataset: Dataset, length: int) -> tuple[int, int]:
    """How many held-out texts of this length were compared, and the tokens that a match needs to be no accident."""
    length = min(length, HELD_OUT_TOKENS)
    split = dataset.splits.get("val")
    count = 0 if split is None else min(HELD_OUT, len(split) // length)
    if split is None or count < FEWEST_HELD_OUT:
        return 0, MOST
    starts = [(len(split) - length) * number // (count - 1) for number in range(count)]
    together = [token for start in starts for token in (*split.read(start, length).tolist(), SEPARATOR)]
    longest = np.sort(array.longest_matches(together).reshape(count, length + 1).max(1))
    return count, int(np.clip(longest[count - 1 - int(ALLOWED * count)] + 1, LEAST, MOST))
