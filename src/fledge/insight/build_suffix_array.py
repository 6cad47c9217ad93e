"""Build the suffix array of a training split, once, in the cache (see suffix_array.py for the files).

    tokens of a piece  →  numbers, 0 between documents  →  big-endian bytes  →  divsufsort  →  positions

libdivsufsort sorts bytes. Numbers of equal width in big-endian bytes sort as they do as numbers, so the suffixes that
begin at a number stand in the right order; the others are dropped. A number is an id plus one, in one byte for small
vocabularies, two for most, three for large ones. The 0 that ends each document sorts before every token, so no suffix
reaches into the next document.

Memory: five bytes for each byte of a piece. 50 million tokens take 400 MB and less than a minute.
"""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fledge.core.checksums import with_checksum
from fledge.core.errors import UserError
from fledge.core.files import atomic_folder, file_lock, human_bytes, new_folders, sha256
from fledge.core.progress import notice
from fledge.core.signals import in_thread
from fledge.datasets.shards import Dataset, Split
from fledge.insight.suffix_array import (
    DESCRIPTION,
    FORMAT,
    OVERLAP,
    POSITION,
    DamagedIndex,
    Ints,
    SuffixArray,
    document_starts,
    index_folder,
    open_suffix_array,
    piece_name,
)

PIECE_BYTES = 1 << 26  # of a piece's text; a signed 32-bit index would hold 2^31
CHUNK = 1 << 20  # tokens at a time
BUSY_SECONDS = 0.2  # between two looks at an array that another process builds
POLL_SECONDS = 0.1
SORT_SPEED = 5e6  # bytes per second, to show progress while a piece is sorted
READ, SORT = 0.1, 0.8  # shares of a piece's progress; the rest is writing
Report = Callable[[float], None]  # is called with the share that is done, from 0 to 1


class IndexBusy(UserError):
    """Another process is building the same array."""


def ensure_suffix_array(dataset: Dataset, report: Report = lambda _: None) -> SuffixArray:
    """Open the array of the training split, and build it first where it is missing or damaged.

    Two processes: one builds, the other waits for it. Interrupted at any moment: nothing remains of it.
    """
    folder = index_folder(dataset)
    while (array := _open_intact(dataset, notice)) is None:
        try:
            with new_folders(folder.parent), file_lock(folder.parent / f".{folder.name}.lock", _busy(folder)):
                if _open_intact(dataset, lambda _: None) is None:  # another process may have built it by now
                    _build(dataset, folder, report)
        except IndexBusy:
            time.sleep(BUSY_SECONDS)
    return array


def _open_intact(dataset: Dataset, warn: Callable[[str], None]) -> SuffixArray | None:
    try:
        return open_suffix_array(dataset)
    except DamagedIndex as error:
        warn(f"warning: {error}; building it again")
        return None


def _busy(folder: Path) -> IndexBusy:
    return IndexBusy(f"another process is building '{folder}'", "wait for it")


def _build(dataset: Dataset, folder: Path, report: Report) -> None:
    split = dataset.split("train")
    _refuse_small_disk(folder, POSITION.itemsize * len(split))
    starts = document_starts(dataset, split)
    plans = plan_pieces(split, starts, dataset.tokenizer.vocab_size)
    described = []
    with atomic_folder(folder, replace=True) as inside:
        for number, plan in enumerate(plans):
            path = inside / piece_name(number)

            def report_piece(share: float, number: int = number) -> None:
                report((number + share) / len(plans))

            with path.open("wb") as file:
                for positions in sorted_positions(split, plan, report_piece):
                    file.write(positions.data)
            borders = {"begin": plan.begin, "stop": plan.stop, "end": plan.end}
            described.append({**borders, "sha256": sha256(path)})
        content = {"format": FORMAT, "dataset": dataset.fingerprint, "tokens": len(split), "pieces": described}
        (inside / DESCRIPTION).write_bytes(with_checksum(content, indent=1))


def _refuse_small_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise UserError(
            f"the index of the training data needs {human_bytes(needed)} in '{folder.parent}',"
            f" but only {human_bytes(free)} are free",
            "free some space, or choose another disk for the cache: FLEDGE_CACHE=DIR",
        )


@dataclass(frozen=True)
class PiecePlan:
    begin: int
    stop: int
    end: int
    starts: Ints  # of documents, within the piece; not its first token
    width: int  # bytes per number


def plan_pieces(split: Split, starts: Ints, vocab_size: int) -> list[PiecePlan]:
    """Cut the split into pieces whose text has about PIECE_BYTES, all alike."""
    width = _width(vocab_size)
    room = max(1, PIECE_BYTES // width - OVERLAP)
    count = -(-(len(split) + len(starts)) // room)
    borders = [len(split) * number // count for number in range(count + 1)]
    plans = []
    for begin, stop in itertools.pairwise(borders):
        end = min(stop + OVERLAP, len(split))
        within = starts[(starts > begin) & (starts < end)]
        plans.append(PiecePlan(begin, stop, end, within, width))
    return plans


def _width(symbols: int) -> int:
    """Bytes of a number up to `symbols`; 0 stands between documents."""
    return max(1, (symbols.bit_length() + 7) // 8)


def sorted_positions(split: Split, plan: PiecePlan, report: Report) -> Iterator[NDArray[np.uint32]]:
    """The positions of the suffixes that begin in the piece, in order, in chunks."""
    ends = plan.starts - plan.begin + np.arange(len(plan.starts))  # where the zeros stand
    rows = _sorted_suffixes(_text(split, plan, ends, report), lambda share: report(READ + SORT * share))
    skip = len(ends)  # of the suffixes that begin at a number, those at the zeros sort first
    for at in range(0, len(rows), CHUNK):
        chunk = rows[at : at + CHUNK]
        places = chunk[chunk % plan.width == 0].astype(np.int64) // plan.width
        places, skip = places[skip:], max(0, skip - len(places))
        tokens = places - np.searchsorted(ends, places)
        yield tokens[tokens < plan.stop - plan.begin].astype(POSITION)
        report(READ + SORT + (1 - READ - SORT) * min(1, (at + CHUNK) / len(rows)))


def _text(split: Split, plan: PiecePlan, ends: Ints, report: Report) -> NDArray[np.uint8]:
    """The piece as big-endian numbers, id + 1, with a 0 at the end of each document: [numbers · width]."""
    length = plan.end - plan.begin
    text = np.zeros((length + len(ends), plan.width), dtype=np.uint8)
    for at, ids in _chunks(split, plan):
        places = np.arange(at, at + len(ids))
        places += np.searchsorted(plan.starts - plan.begin, places, side="right")
        for byte in range(plan.width):
            text[places, byte] = ((ids + 1) >> (8 * (plan.width - 1 - byte))) & 0xFF
        report(READ * (at + len(ids)) / length)
    return text.reshape(-1)


def _chunks(split: Split, plan: PiecePlan) -> Iterator[tuple[int, Ints]]:
    for at in range(plan.begin, plan.end, CHUNK):
        yield at - plan.begin, split.read(at, min(CHUNK, plan.end - at))


def _sorted_suffixes(text: NDArray[np.uint8], report: Report) -> NDArray[np.int32]:
    """The positions of all bytes, sorted by what follows. In a thread, so that Ctrl-C is heard while it works."""
    try:
        from pydivsufsort import divsufsort
    except ImportError:
        raise UserError(
            "searching the training data needs pydivsufsort, which is not installed", "pip install 'fledge[studio]'"
        ) from None
    sorting, begun = in_thread(lambda: divsufsort(text)), time.monotonic()
    while not wait([sorting], POLL_SECONDS).done:
        report(min(0.97, (time.monotonic() - begun) * SORT_SPEED / len(text)))
    rows: NDArray[np.int32] = sorting.result()
    return rows
