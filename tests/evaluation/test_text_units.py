"""The units of a bootstrap: documents, and blocks of long ones."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fledge.datasets.shards import Split
from fledge.evaluation import text_units as module
from fledge.evaluation.text_units import text_units


def make_split(lengths: list[int], shard: int, seed: int = 0) -> Split:
    """Documents of these many tokens, in shards of `shard` tokens."""
    ids = np.random.default_rng(seed).integers(0, 5, sum(lengths)).astype(np.uint16)
    starts = np.cumsum([0, *lengths[:-1]])
    cuts = range(0, len(ids), shard)
    inside = [(starts[(starts >= cut) & (starts < cut + shard)] - cut).astype(np.uint64) for cut in cuts]
    return Split("val", [ids[cut : cut + shard] for cut in cuts], inside)


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=30), shard=st.integers(1, 300), chunk=st.integers(1, 99)
)
def test_units_are_documents_or_blocks_of_them(lengths: list[int], shard: int, chunk: int) -> None:
    split, sizes = make_split(lengths, shard), np.array([0, 1, 2, 3, 9])
    usual, module.CHUNK = module.CHUNK, chunk
    try:
        units = text_units(split, sizes)
    finally:
        module.CHUNK = usual
    ids = split.read(0, len(split))
    documents = np.repeat(np.arange(len(lengths)), lengths)
    assert np.array_equal(split.document_starts(), np.cumsum([0, *lengths[:-1]]))
    assert np.array_equal(units.bytes, np.bincount(documents, sizes[ids], minlength=len(lengths)))
    found = units.of(np.arange(len(ids)))
    assert np.array_equal(units.documents[found], documents)
    assert np.array_equal(np.unique(found), np.arange(len(units.starts)))
    largest = np.bincount(found, sizes[ids]).max()
    assert largest <= -(-sizes[ids].sum() // module.MIN_UNITS) + 2 * sizes.max()


def test_two_tokenizers_cut_one_document_at_the_same_bytes() -> None:
    """The second tokenizer joins two bytes into one token."""
    one, two = (Split("val", [np.zeros(n, dtype=np.uint16)], [np.zeros(1, dtype=np.uint64)]) for n in (10_000, 5_000))
    first, second = text_units(one, np.array([1])), text_units(two, np.array([2]))
    assert np.array_equal(first.bytes, second.bytes)
    assert len(first.starts) == len(second.starts) == module.MIN_UNITS
    assert np.array_equal(first.starts, 2 * second.starts)


def test_document_without_bytes_is_one_unit() -> None:
    split = Split("val", [np.zeros(7, dtype=np.uint16)], [np.array([0, 3], dtype=np.uint64)])
    assert text_units(split, np.array([0])).starts.tolist() == [0, 3]
