"""How hard a text is to predict, in a second: the cross-entropy of a simple model of its tokens.

    a trigram model, counted on as many tokens as a run sees       knows the kind of text, the tokenizer, and how little
                                                                   text there is
  + the tokens of the last WINDOW                                  repetition within a document, which attention learns

Evaluated on a sample of the validation split. The loss of a small GPT, trained for minutes, follows it closely.

    P(c | a b) = (n(abc) + k(ab) P(c | b)) / (n(ab) + k(ab))        Witten and Bell, 1991; k: different continuations
"""

import numpy as np
from numpy.typing import NDArray

from fledge.datasets.shards import Dataset
from fledge.tokenizers.base import byte_lengths

MAX_TRAIN_TOKENS, VAL_TOKENS = 3_000_000, 100_000
WINDOW = 128
WINDOW_SHARE = 0.05  # of the probability; the rest is that of the trigram model

Ids = NDArray[np.int64]
Probabilities = NDArray[np.float64]
COMPUTED: dict[tuple[str, int], float | None] = {}  # by dataset and tokens, for the runs of one process on one text


def text_entropy(dataset: Dataset, tokens: int) -> float | None:
    """Bits for each byte of the validation split, for a run that sees so many tokens; None without such a split."""
    if "val" not in dataset.available_splits:
        return None
    key = (dataset.fingerprint, min(tokens, MAX_TRAIN_TOKENS, len(dataset.split("train"))))
    if key not in COMPUTED:
        COMPUTED[key] = compute_entropy(dataset, key[1])
    return COMPUTED[key]


def compute_entropy(dataset: Dataset, tokens: int) -> float | None:
    train = dataset.split("train").sample(tokens)
    val = dataset.split("val").sample(VAL_TOKENS)
    if len(train) < 3 or len(val) < 3:
        return None
    trigram, window = trigram_probabilities(train, val, dataset.tokenizer.vocab_size), window_probabilities(val)[2:]
    mixed = (1 - WINDOW_SHARE) * trigram + WINDOW_SHARE * window
    length = int(byte_lengths(dataset.tokenizer)[val[2:]].sum())
    return float(-np.log2(mixed).sum()) / max(1, length)


def trigram_probabilities(train: Ids, val: Ids, vocab_size: int) -> Probabilities:
    """The probability of each token of val[2:] under the trigram model of `train`."""
    one = (np.bincount(train, minlength=vocab_size) + 1) / (len(train) + vocab_size)
    first, second, third = val[:-2], val[1:-1], val[2:]
    two = interpolated(train[:-1], train[1:], second, third, one[third], vocab_size)
    contexts = train[:-2] * vocab_size + train[1:-1]
    return interpolated(contexts, train[2:], first * vocab_size + second, third, two, vocab_size)


def window_probabilities(val: Ids) -> Probabilities:
    """The share of each token among the tokens before it in its window of WINDOW."""
    rows = np.resize(val, (-(-len(val) // WINDOW), WINDOW))
    shares = np.empty(rows.shape)
    for place in range(WINDOW):
        shares[:, place] = (rows[:, :place] == rows[:, place : place + 1]).sum(axis=1) / max(1, place)
    return shares.ravel()[: len(val)]


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
