"""How hard a text is to predict, in a second: the cross-entropy of a trigram model of its tokens.

The trigram is counted on a sample of the training split and evaluated on a sample of the validation split, so
it knows the kind of text, the tokenizer, and how little text there is. The loss of a small GPT follows it closely.

    P(c | a b) = (n(abc) + k(ab) P(c | b)) / (n(ab) + k(ab))        Witten and Bell, 1991; k: different continuations
"""

import math

import numpy as np
from numpy.typing import NDArray

from fledge.datasets.shards import Dataset, Split
from fledge.tokenizers.base import byte_lengths

TRAIN_TOKENS, VAL_TOKENS = 1_000_000, 100_000
PIECES = 50  # of a sample, evenly spaced over the split

Ids = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def text_entropy(dataset: Dataset) -> float | None:
    """Bits for each byte of the validation split; None without one."""
    if "val" not in dataset.available_splits:
        return None
    train, val = sample(dataset.split("train"), TRAIN_TOKENS), sample(dataset.split("val"), VAL_TOKENS)
    if len(train) < 3 or len(val) < 3:
        return None
    length = int(byte_lengths(dataset.tokenizer)[val[2:]].sum())
    return trigram_nats(train, val, dataset.tokenizer.vocab_size) / math.log(2) / max(1, length)


def sample(split: Split, tokens: int) -> Ids:
    """About so many tokens, in evenly spaced pieces; the whole split if it is no longer."""
    if len(split) <= tokens:
        return split.read(0, len(split))
    length = tokens // PIECES
    starts = np.linspace(0, len(split) - length, PIECES).astype(np.int64)
    return np.concatenate([split.read(int(start), length) for start in starts])


def trigram_nats(train: Ids, val: Ids, vocab_size: int) -> float:
    """The summed loss of val[2:] under the trigram model of `train`."""
    one = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    first, second, third = val[:-2], val[1:-1], val[2:]
    two = interpolated(train[:-1], train[1:], second, third, one[third], vocab_size)
    contexts = train[:-2] * vocab_size + train[1:-1]
    three = interpolated(contexts, train[2:], first * vocab_size + second, third, two, vocab_size)
    return float(-np.log(three).sum())


def interpolated(contexts: Ids, ids: Ids, at: Ids, then: Ids, lower: Probabilities, size: int) -> Probabilities:
    """P(then | at) from the pairs (context, id) of the training text; `lower`: P(then) with a shorter context."""
    pairs, pair_counts = np.unique(contexts * size + ids, return_counts=True)
    known, starts, kinds = np.unique(pairs // size, return_index=True, return_counts=True)
    totals = np.add.reduceat(pair_counts, starts)
    count = look_up(pairs, pair_counts, at * size + then)
    total, kind = look_up(known, totals, at), look_up(known, kinds, at)
    return np.where(total > 0, (count + kind * lower) / np.maximum(1, total + kind), lower)


def look_up(keys: Ids, values: Ids, wanted: Ids) -> Ids:
    """The value of each wanted key in the sorted `keys`; 0 where it is missing."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
