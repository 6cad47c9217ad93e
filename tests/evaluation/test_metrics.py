"""The metrics of a split, checked against scikit-learn and slow direct computations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.evaluation import loss as batches
from fledge.evaluation import metrics as module
from fledge.evaluation.confusion import precision_recall_f1
from fledge.evaluation.loss import evaluate_loss
from fledge.evaluation.metrics import Counts, SplitMetrics, UnitSums, evaluate_split
from fledge.evaluation.sample import windows
from fledge.evaluation.table import split_table
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build

CPU, V = Machine("cpu", "float32"), 23
BYTES = np.arange(V) % 4


def make_model(context: int, scale: float = 12) -> GPT:
    model = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=context, vocab_size=V), 0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(scale)
    return model.eval()


def make_split(length: int, documents: int = 1) -> Split:
    random = np.random.default_rng(length)
    ids = random.integers(0, V, length).astype(np.uint16)
    starts = np.unique([0, *random.integers(0, length, documents - 1)]).astype(np.uint64)
    return Split("val", [ids], [starts])


def direct(model: GPT, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets [N], probabilities [N, V] and the number of tokens before each target in its window."""
    ids, context = split.read(0, len(split)), model.config.context
    rows, before = [], []
    with torch.no_grad():
        for start in range(0, len(ids) - 1, context):
            window = torch.from_numpy(ids[start : min(start + context, len(ids) - 1)])
            rows.append(model(window.unsqueeze(0))[0].double().softmax(-1).numpy())
            before.append(np.arange(len(window)) + 1)
    return ids[1:], np.concatenate(rows), np.concatenate(before)


def evaluated(model: GPT, split: Split, rows: int = 64) -> tuple[SplitMetrics, UnitSums]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MAX_TOKENS", {"cpu": rows * model.config.context})
        return evaluate_split(model, split, BYTES, CPU)


@given(data=st.data(), classes=st.integers(1, 12), count=st.integers(1, 60))
def test_precision_recall_f1_equal_scikit_learn(data: st.DataObject, classes: int, count: int) -> None:
    ids = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    actual, predicted = (np.array(data.draw(ids)) for _ in range(2))
    counts = [np.bincount(each, minlength=classes) for each in (actual[actual == predicted], predicted, actual)]
    for average, found in zip(("weighted", "macro"), precision_recall_f1(*counts), strict=True):
        expected = precision_recall_fscore_support(actual, predicted, average=average, zero_division=0)[:3]
        assert (found.precision, found.recall, found.f1) == pytest.approx(expected)


@given(length=st.integers(2, 150), context=st.sampled_from([1, 5, 16]), rows=st.integers(1, 4))
@settings(max_examples=20)
def test_metrics_equal_slow_direct_computations(length: int, context: int, rows: int) -> None:
    model, split = make_model(context), make_split(length)
    targets, probabilities, before = direct(model, split)
    found, _ = evaluated(model, split, rows)
    guesses, nats = probabilities.argmax(-1), -np.log(probabilities[np.arange(len(targets)), targets])
    top = np.argsort(-probabilities, axis=-1, kind="stable")[:, :5]
    assert found.tokens == length - 1
    assert found.loss == pytest.approx(nats.mean(), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats.mean()), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(nats.sum() / math.log(2) / max(1, BYTES[targets].sum()), rel=1e-5)
    assert found.accuracy == found.recall == pytest.approx((guesses == targets).mean())
    assert found.top5_accuracy == pytest.approx((top == targets[:, None]).any(-1).mean())
    for average, names in (
        ("weighted", ("precision", "recall", "f1")),
        ("macro", ("precision_macro", "recall_macro", "f1_macro")),
    ):
        expected = precision_recall_fscore_support(targets, guesses, average=average, zero_division=0)[:3]
        assert [getattr(found, name) for name in names] == pytest.approx(expected)
    for bucket in found.loss_by_position:
        inside = (before >= bucket.first) & (before <= bucket.last)
        assert (bucket.tokens, bucket.loss) == (inside.sum(), pytest.approx(nats[inside].mean(), rel=1e-5))
    assert sum(bucket.tokens for bucket in found.loss_by_position) == length - 1


def test_calibration_equals_a_direct_computation() -> None:
    model, split = make_model(16), make_split(900)
    targets, probabilities, _ = direct(model, split)
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == targets
    found, error = evaluated(model, split)[0], 0.0
    for i, bucket in enumerate(found.calibration):
        inside = (confidence >= i / 10) & (confidence < (i + 1) / 10)
        assert bucket.tokens == inside.sum()
        if inside.any():
            assert bucket.confidence == pytest.approx(confidence[inside].mean(), rel=1e-4)
            assert bucket.accuracy == pytest.approx(right[inside].mean())
            error += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    assert sum(bucket.tokens > 0 for bucket in found.calibration) >= 5
    assert found.calibration_error == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("length", [40, 333])
def test_loss_is_that_of_the_evaluations_in_training(length: int) -> None:
    model, split = make_model(16), make_split(length)
    fast, found = evaluate_loss(model, split, BYTES, CPU), evaluate_split(model, split, BYTES, CPU)[0]
    for name in ("split", "loss", "perplexity", "bits_per_byte", "accuracy", "tokens", "context"):
        assert getattr(found, name) == getattr(fast, name)


@given(rows=st.integers(1, 9))
@settings(max_examples=6)
def test_every_number_is_the_same_for_any_batch_size(rows: int) -> None:
    model, split = make_model(8), make_split(211, documents=5)
    found, expected = evaluated(model, split, rows), evaluated(model, split)
    numbers = [[value for value in vars(each).values() if isinstance(value, float)] for each in (found[0], expected[0])]
    assert len(numbers[0]) > 10
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)
    assert found[1].nats == pytest.approx(expected[1].nats, rel=1e-5)


@given(size=st.integers(2, 4), rows=st.integers(1, 5))
@settings(max_examples=8)
def test_sums_of_ranks_add_up_to_those_of_one_process(size: int, rows: int) -> None:
    """Bit for bit: they are integers."""
    model, split = make_model(8), make_split(211, documents=5)
    every = windows(len(split), 8)

    def sums_of(machine: Machine) -> list[np.ndarray]:
        counts = Counts(split, 8, V, len(every), BYTES)
        for first, ids, scores in batches.scored_batches(model, split, machine, iter, every, module.token_scores):
            counts.add(first, every[first : first + len(ids)], ids, scores)
        return [
            torch.as_tensor(value).numpy()
            for name, value in vars(counts).items()
            if name not in ("byte_lengths", "units")
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MAX_TOKENS", {"cpu": rows * 8})
        ranks = [sums_of(Machine("cpu", "float32", World(rank, size))) for rank in range(size)]
        alone = sums_of(CPU)
    assert len(alone) == 7
    for expected, *parts in zip(alone, *ranks, strict=True):
        assert np.array_equal(expected, sum(parts))


def test_equal_logits_predict_the_smallest_id() -> None:
    model, split = make_model(8), make_split(300)
    with torch.no_grad():
        model.head.weight.zero_()
    targets, found = split.read(1, 299), evaluated(model, split)[0]
    assert found.loss == pytest.approx(math.log(V), rel=1e-6)
    assert (found.accuracy, found.top5_accuracy) == (np.mean(targets == 0), np.mean(targets < 5))
    counts = np.bincount(targets)
    assert found.unigram_accuracy == counts.max() / 299
    assert found.unigram_loss == pytest.approx(-np.sum(counts / 299 * np.log(counts / 299)))


def test_unit_sums_are_those_of_the_documents() -> None:
    model, split = make_model(16), make_split(900, documents=12)
    targets, probabilities, _ = direct(model, split)
    found, sums = evaluated(model, split)
    starts, positions = split.document_starts(), np.arange(1, 900)
    assert (found.documents, len(sums.units.bytes)) == (len(starts), len(starts))
    nats = -np.log(probabilities[np.arange(899), targets])
    for document in range(len(starts)):
        inside = np.searchsorted(starts, positions, side="right") - 1 == document
        units = sums.units.documents == document
        assert sums.tokens[units].sum() == inside.sum()
        assert sums.bytes[units].sum() == BYTES[targets[inside]].sum()
        assert sums.nats[units].sum() == pytest.approx(nats[inside].sum(), rel=1e-5)


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e30])
def test_damaged_weights_are_refused(weight: float) -> None:
    model = make_model(8)
    with torch.no_grad():
        model.head.weight[3] = weight
    with pytest.raises(UserError, match=r"loss of \d+ of 39 tokens is no usable number"):
        evaluate_split(model, make_split(40), BYTES, CPU)


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = make_model(8), make_split(90)
    whole, usual, sizes = evaluate_split(model, split, BYTES, CPU)[0], module.token_scores, []

    def narrow(hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(hidden))
        if len(hidden) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(hidden, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "token_scores", narrow)
    found = evaluate_split(model, split, BYTES, CPU)[0]
    assert max(sizes) > 2
    assert (found.accuracy, found.top5_accuracy) == (whole.accuracy, whole.top5_accuracy)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_bf16_ranks_are_exact_where_logits_are_equal() -> None:
    """Logits in bf16 are often equal: the fraction among the top five must not count them all."""
    model, split = make_model(8, scale=2), make_split(400)
    found = evaluate_split(model, split, BYTES, Machine("cpu", "bfloat16"))[0]
    assert found.accuracy <= found.top5_accuracy < 0.9


@pytest.mark.parametrize("scale", [1, 40])
def test_table_fits_80_columns(scale: float) -> None:
    model = make_model(64, scale)
    lines = split_table(evaluated(model, make_split(900))[0], V).splitlines()
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if "F1" in line]) == 1
