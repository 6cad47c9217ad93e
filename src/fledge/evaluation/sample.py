"""A fixed sample of a split, and how far its loss may be from that of the whole split.

The windows of the split are divided into as many groups of neighbours as the sample has windows, and one is drawn from
each. So the sample is spread over the whole split. It depends on the split, the context and the size alone: runs with
another seed are compared on the same text.

The margin of error is clustered by document: the windows of one document resemble each other. A window counts to the
document in which it begins; a document with more than a twentieth of the windows is divided into blocks of neighbours.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from fledge.batches.sampler import mix
from fledge.datasets.shards import Split

MIN_CLUSTERS = 20
# Of Student's t distribution with 1 to 4 degrees of freedom: standard errors on each side of a 95 % interval.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776)
Windows = list[tuple[int, int]]  # (first token, number of targets)


def windows(length: int, context: int) -> Windows:
    """All windows of a split: [0, context], [context, 2·context], … The last may be shorter."""
    return [(start, min(context, length - 1 - start)) for start in range(0, length - 1, context)]


def sample_windows(length: int, context: int, tokens: int, seed: int = 0) -> Windows:
    """The windows of a sample of about `tokens` tokens, at least one; all windows where there are no more."""
    every = windows(length, context)
    count = max(1, round(tokens / context))
    if count >= len(every):
        return every
    edges = np.arange(count + 1) * len(every) // count
    random = mix(mix(np.full(count, seed, dtype=np.uint64)) ^ np.arange(count, dtype=np.uint64))
    chosen = edges[:-1] + (random % np.diff(edges).astype(np.uint64)).astype(np.int64)
    return [every[index] for index in chosen]


def clusters(split: Split, chosen: Windows) -> NDArray[np.int64]:
    """The number of the cluster of each window."""
    documents = np.array([split.documents_in(start, 1)[0] for start, _ in chosen])
    largest = max(1, len(chosen) // MIN_CLUSTERS)  # windows of a cluster
    labels, cluster, size = [0], 0, 1
    for before, document in itertools.pairwise(documents):
        if document != before or size == largest:
            cluster, size = cluster + 1, 0
        size += 1
        labels.append(cluster)
    return np.array(labels)


def margin_of_error(
    nats: NDArray[np.float64], tokens: NDArray[np.float64], labels: NDArray[np.int64], split_tokens: int
) -> float | None:
    """Half of the 95 % interval for the loss of the whole split, in nats per token. None: too few clusters.

    nats and tokens [W]: of each window. labels [W]: its cluster.
    """
    count = int(labels.max()) + 1
    return t_quantile(count - 1) * standard_error(nats, tokens, labels, split_tokens) if count > 1 else None


def standard_error(
    nats: NDArray[np.float64], tokens: NDArray[np.float64], labels: NDArray[np.int64], split_tokens: float
) -> float:
    """The usual formula for a ratio of two sums, corrected for a sample that is a good part of the whole."""
    count, total = int(labels.max()) + 1, tokens.sum()
    residuals = np.bincount(labels, nats - nats.sum() / total * tokens)
    variance = count / (count - 1) * float(np.square(residuals).sum()) / total**2
    return math.sqrt(variance * max(0.0, 1 - total / split_tokens))


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution; 1.96 for infinitely many degrees of freedom."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    return 1.96 + 2.372 / freedom + 2.82 / freedom**2 + 2.56 / freedom**3  # the Cornish-Fisher expansion
