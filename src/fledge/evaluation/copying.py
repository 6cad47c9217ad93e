"""How much of a text stands word for word in the training data: the n-grams of tokens that occur there.

The token shards are read once, in chunks, so memory does not grow with them. A rolling hash finds candidates; each is
then compared token by token, so no hash collision counts as a copy.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fledge.batches.sampler import mix
from fledge.datasets.shards import Split

CHUNK = 1 << 20  # tokens read at a time
FILTER_BITS = 22  # of the hash: a table that rules out nearly every window of the training data
BASE = 0x9E3779B97F4A7C15  # odd, so that no token is lost in products modulo 2^64
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def copied_ngrams(
    texts: Sequence[Sequence[int]], n: int, split: Split, progress: Callable[[Sequence[int]], Iterable[int]] = iter
) -> list[NDArray[np.bool_]]:
    """For each text, which of its n-grams occur in the split: [len(text) - n + 1]; empty for a shorter text."""
    counts = [max(0, len(text) - n + 1) for text in texts]
    ngrams = [text[i : i + n] for text, count in zip(texts, counts, strict=True) for i in range(count)]
    if not ngrams or len(split) < n:
        return [np.zeros(count, dtype=np.bool_) for count in counts]
    distinct, which = np.unique(np.array(ngrams, dtype=np.int64), axis=0, return_inverse=True)
    found = _find(distinct, split, progress)[which.reshape(-1)]
    return np.split(found, np.cumsum(counts)[:-1])


def _find(ngrams: Ints, split: Split, progress: Callable[[Sequence[int]], Iterable[int]]) -> NDArray[np.bool_]:
    """ngrams [K, n], distinct → which occur [K]."""
    n = ngrams.shape[1]
    wanted = np.concatenate([window_hashes(ngram, n) for ngram in ngrams])
    order = np.argsort(wanted)
    in_order, shift = wanted[order], np.uint64(64 - FILTER_BITS)
    table = np.zeros(1 << FILTER_BITS, dtype=np.bool_)
    table[wanted >> shift] = True
    found = np.zeros(len(ngrams), dtype=np.bool_)
    for begin in progress(range(0, len(split) - n + 1, CHUNK)):
        ids = split.read(begin, min(CHUNK + n - 1, len(split) - begin))
        hashes = window_hashes(ids, n)
        places = np.flatnonzero(table[hashes >> shift])
        near = np.minimum(np.searchsorted(in_order, hashes[places]), len(order) - 1)
        same = in_order[near] == hashes[places]
        places, candidates = places[same], order[near[same]]
        windows = np.lib.stride_tricks.sliding_window_view(ids, n)[places]
        found[candidates[(windows == ngrams[candidates]).all(1)]] = True
    return found


def window_hashes(ids: Ints, n: int) -> Hashes:
    """ids [N] → the hash of each window of n ids [N - n + 1]: Σ mix(id) · BASE^place, modulo 2^64.

    The hash of a long window is made of those of two shorter ones, so it takes log2(n) passes.
    """
    single = mix(ids.astype(np.uint64))
    hashes, length = single, 1
    with np.errstate(over="ignore"):
        for bit in bin(n)[3:]:
            hashes = hashes[:-length] * _power(length) + hashes[length:]
            length *= 2
            if bit == "1":
                hashes = hashes[:-1] * _power(1) + single[length:]
                length += 1
    return hashes


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(BASE, exponent, 1 << 64))
