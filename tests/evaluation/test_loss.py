"""The loss of a split: every token once, equal to a slow direct computation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.evaluation import loss as evaluation
from fledge.evaluation.loss import evaluate_loss, windows
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.head import Head
from fledge.model.init import build

CPU = Machine("cpu", "float32")


def make_model(context: int) -> GPT:
    model = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=context, vocab_size=9, dropout=0.2), 0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(20)
    return model


def make_split(length: int) -> Split:
    ids = np.random.default_rng(length).integers(0, 9, length).astype(np.uint16)
    cut = length // 3
    return Split("val", [ids[:cut], ids[cut:]], [np.zeros(1), np.zeros(1)])


@given(length=st.integers(2, 200), context=st.integers(1, 40))
def test_windows_predict_each_token_but_the_first_once(length: int, context: int) -> None:
    targets = [start + 1 + i for start, count in windows(length, context) for i in range(count)]
    assert targets == list(range(1, length))
    assert all(1 <= count <= context for _, count in windows(length, context))


@given(length=st.integers(2, 60), context=st.sampled_from([1, 4, 7, 16]), rows=st.integers(1, 4))
@settings(max_examples=25)
def test_result_equals_a_slow_direct_computation(length: int, context: int, rows: int) -> None:
    model, split = make_model(context), make_split(length)
    lengths = np.array([1, 2, 3, 4, 1, 1, 2, 2, 0])
    ids = split.read(0, length)
    nats, right, spelled = 0.0, 0, 0
    model.eval()
    with torch.no_grad():
        for place in range(1, length):
            begin = (place - 1) // context * context
            scores = model(torch.from_numpy(ids[begin:place]).unsqueeze(0))[0, -1].double()
            nats -= float(scores.log_softmax(-1)[ids[place]])
            right += int(scores.argmax()) == ids[place]
            spelled += int(lengths[ids[place]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "MAX_TOKENS", {"cpu": rows * context})
        found = evaluate_loss(model, split, lengths, CPU)
    assert found.tokens == length - 1
    assert (found.split, found.context) == ("val", context)
    assert found.loss == pytest.approx(nats / (length - 1), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(nats / (length - 1)), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / max(1, spelled), rel=1e-5)
    assert found.accuracy == pytest.approx(right / (length - 1))


def test_evaluation_is_deterministic_and_draws_nothing() -> None:
    model, split = make_model(8), make_split(100)
    before = torch.get_rng_state()
    one = evaluate_loss(model, split, np.ones(9, dtype=np.int64), CPU)
    assert one == evaluate_loss(model, split, np.ones(9, dtype=np.int64), CPU)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_training_mode(training: bool) -> None:
    model = make_model(8).train(training)
    evaluate_loss(model, make_split(40), np.ones(9, dtype=np.int64), CPU)
    assert model.training is training
    assert all(p.requires_grad for p in model.parameters())


def test_uniform_model_has_the_loss_of_a_uniform_guess() -> None:
    model = make_model(8)
    with torch.no_grad():
        model.head.weight.zero_()
    found = evaluate_loss(model, make_split(200), np.ones(9, dtype=np.int64), CPU)
    assert found.loss == pytest.approx(math.log(9), rel=1e-6)
    assert found.perplexity == pytest.approx(9, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(math.log2(9), rel=1e-6)


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split, lengths = make_model(8), make_split(90), np.ones(9, dtype=np.int64)
    whole = evaluate_loss(model, split, lengths, CPU)
    usual, sizes = evaluation.loss_and_correct, []

    def narrow(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        if len(hidden) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(hidden, head, targets)

    monkeypatch.setattr(evaluation, "loss_and_correct", narrow)
    found = evaluate_loss(model, split, lengths, CPU)
    assert max(sizes) > 2
    assert (found.tokens, found.accuracy) == (whole.tokens, whole.accuracy)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_out_of_memory_with_one_window_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(evaluation, "loss_and_correct", never)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate_loss(make_model(8), make_split(90), np.ones(9, dtype=np.int64), CPU)
