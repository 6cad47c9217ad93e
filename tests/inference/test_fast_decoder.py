"""Every path of the decoder computes what the model computes: in chunks, for ragged rows, after a copied prefix."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from families import CONTEXT, FAMILIES, MODELS, V
from fledge.inference.fast_decoder import FastDecoder
from fledge.inference.graph_decoder import GraphDecoder
from fledge.inference.lean import LeanGPT
from fledge.inference.linear import INT8_LINEARS, LINEARS

PATHS = ("plain", "packed", "graph")
every_family = pytest.mark.parametrize("family", FAMILIES)
every_path = pytest.mark.parametrize("path", PATHS)


def make_decoder(
    family: str, path: str = "plain", slots: int = 3, dtype: torch.dtype = torch.float32
) -> FastDecoder | GraphDecoder:
    if path == "graph":  # its code, without a graph
        return GraphDecoder(LeanGPT(MODELS[family], dtype, LINEARS["plain"]), slots, "sdpa", path)
    try:
        return FastDecoder(LeanGPT(MODELS[family], dtype, (LINEARS | INT8_LINEARS)[path]), slots, path)
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"this machine has no {path} path: {error}")


def make_ids(length: int, seed: int) -> Tensor:
    return torch.randint(V, (length,), generator=torch.Generator().manual_seed(seed))


def reference(family: str, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return MODELS[family](ids[None])[0]


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    error = float((found.float() - expected).norm() / expected.norm())
    assert error < (1e-4 if dtype == torch.float32 else 0.05)


@every_path
@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ragged_rows_equal_the_model(family: str, path: str, dtype: torch.dtype) -> None:
    decoder, starts = make_decoder(family, path, 3, dtype), (7, 0, 12)
    ids = [make_ids(CONTEXT, seed) for seed in range(3)]
    for slot, start in enumerate(starts):
        if start:
            hidden = decoder.prefill(slot, 0, ids[slot][:start])
            assert_close(decoder.head(hidden), reference(family, ids[slot])[:start], dtype)
    for step in range(6):
        lengths = [start + step for start in starts]
        tokens = torch.stack([row[length] for row, length in zip(ids, lengths, strict=True)])
        logits = decoder.decode(tokens, lengths)
        for slot, length in enumerate(lengths):
            assert_close(logits[slot], reference(family, ids[slot])[length], dtype)


@settings(max_examples=40)
@given(
    family=st.sampled_from(list(FAMILIES)),
    path=st.sampled_from(("plain", "graph")),
    cuts=st.sets(st.integers(1, 19)),
    slot=st.integers(0, 2),
)
def test_prefill_in_any_chunks_equals_whole(family: str, path: str, cuts: set[int], slot: int) -> None:
    decoder, ids = make_decoder(family, path), make_ids(20, slot)
    chunks = [decoder.prefill(slot, a, ids[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 20])]
    assert_close(decoder.head(torch.cat(chunks)), reference(family, ids))


@pytest.mark.parametrize("path", ["plain", "graph"])
@every_family
def test_copied_prefix_equals_computed(family: str, path: str) -> None:
    decoder, ids, other = make_decoder(family, path), make_ids(20, 1), make_ids(20, 2)
    decoder.prefill(0, 0, ids)
    decoder.prefill(2, 0, other)
    decoder.copy_prefix(0, 2, 9)
    text = torch.cat((ids[:9], other[9:14]))
    assert_close(decoder.head(decoder.prefill(2, 9, text[9:13]))[-1], reference(family, text)[12])
    logits = decoder.decode(torch.stack((ids[9], ids[9], text[13])), [9, 0, 13])
    assert_close(logits[0], reference(family, ids)[9])
    assert_close(logits[2], reference(family, text)[13])


@every_family
def test_truncated_slot_goes_on_as_if_it_had_not_gone_further(family: str) -> None:
    decoder, ids, wrong = make_decoder(family), make_ids(12, 3), make_ids(20, 4)
    decoder.prefill(0, 0, torch.cat((ids[:8], wrong[:12])))
    for length in range(8, 12):
        assert_close(decoder.decode(ids[length : length + 1], [length])[0], reference(family, ids)[length])


@every_path
def test_other_slots_are_left_alone(path: str) -> None:
    """Decoding three rows changes nothing of slots 3 and 4; a graph computes a fourth row for it."""
    decoder, ids = make_decoder("text", path, slots=5), make_ids(10, 5)
    for slot in (3, 4):
        decoder.prefill(slot, 0, ids)
    before = [layer[3:5].clone() for layer in decoder.cache]
    for length in range(3):
        decoder.decode(torch.tensor([1, 2, 3]), [length, 0, length])
    assert all(torch.equal(layer[3:5], old) for layer, old in zip(decoder.cache, before, strict=True))
    assert_close(decoder.decode(torch.tensor([1, 2, 3, 4]), [0, 0, 0, 10])[3], reference("text", text(ids, 4))[10])


def text(ids: Tensor, token: int) -> Tensor:
    return torch.cat((ids, torch.tensor([token])))


@pytest.mark.parametrize("path", INT8_LINEARS)
@every_family
def test_int8_is_near_and_a_row_is_the_same_among_others(family: str, path: str) -> None:
    decoder, ids = make_decoder(family, path), make_ids(14, 7)
    if path == "weight-only":
        try:
            decoder.decode(ids[:1], [0])
        except RuntimeError as error:
            pytest.skip(f"this machine has no {path} path: {error}")
    decoder.prefill(0, 0, ids[:12])
    decoder.copy_prefix(0, 2, 12)
    alone = decoder.decode(ids[12:13], [12])[0].clone()
    others = decoder.decode(torch.stack((ids[12], ids[3], ids[12])), [12, 0, 12])
    expected = reference(family, ids)[12]
    assert float((alone - expected).norm() / expected.norm()) < 0.1
    assert float((others[2] - alone).norm() / alone.norm()) < (1e-5 if path == "per-row" else 0.02)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("path", ["plain", "graph"])
@every_family
def test_recomputed_texts_equal_the_model_and_leave_the_cache(family: str, path: str, rows: int) -> None:
    decoder, ids = make_decoder(family, path), torch.stack([make_ids(CONTEXT, seed) for seed in range(rows)])
    decoder.prefill(0, 0, make_ids(CONTEXT, 9))
    before = [layer.clone() for layer in decoder.cache]
    for row, logits in zip(ids, decoder.recompute(ids), strict=True):
        assert_close(logits, reference(family, row)[-1])
    assert all(map(torch.equal, decoder.cache, before))


def test_full_context_is_decoded_to_its_last_token() -> None:
    decoder, ids = make_decoder("text"), make_ids(CONTEXT, 6)
    decoder.prefill(0, 0, ids[:-1])
    assert_close(decoder.decode(ids[-1:], [CONTEXT - 1])[0], reference("text", ids)[-1])


@pytest.mark.parametrize("outputs", [7, 100])
@pytest.mark.parametrize("inputs", [8, 33, 100])
@pytest.mark.parametrize("path", INT8_LINEARS)
def test_int8_products_of_any_size(path: str, inputs: int, outputs: int) -> None:
    """Torch's operators read whole blocks: what stands behind a row must not be read."""
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(size, inputs, generator=generator) for size in (outputs, 17))
    try:
        product = INT8_LINEARS[path](weight, None)
        product(x[:1])
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"no such operator here: {error}")
    for rows in (1, 2, 17):
        found, expected = product(x[:rows]).float(), x[:rows] @ weight.T
        assert (found - expected).norm() < 0.03 * expected.norm()
