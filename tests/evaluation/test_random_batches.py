"""Estimates from random batches, against a re-statement of smol-GPT's evaluation with torch's global generator."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.evaluation import random_batches as module
from fledge.evaluation.random_batches import Estimate, RandomBatches, estimate_as_smol_gpt, estimate_loss
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build

CPU, V, T, ROWS, COUNT = Machine("cpu", "float32"), 23, 8, 16, 20
NAMES = ("loss", "perplexity", "precision", "recall", "f1", "accuracy")


@pytest.fixture(scope="module")
def model() -> GPT:
    made = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=T, vocab_size=V), 0)
    with torch.no_grad():
        for p in made.parameters():
            if p.ndim >= 2:
                p.mul_(5)
    return made.eval()


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(0).zipf(1.6, 500).clip(max=V) - 1


def make_split(ids: np.ndarray) -> Split:
    return Split("test", [ids.astype(np.uint16)], [np.zeros(1, dtype=np.uint64)])


@torch.no_grad()
def restated(model: GPT, ids: np.ndarray, seed: int, count: int = COUNT) -> dict[str, float]:
    """What smol-GPT's eval.py does, in the order in which it draws."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn computes the expected scores")
    data, losses, scores, matches = torch.from_numpy(ids), [], [], []

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - T, (ROWS,))
        return tuple(torch.stack([data[i + shift : i + shift + T] for i in starts]) for shift in (0, 1))  # type: ignore[return-value]

    def drawn(x: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(F.softmax(model(x).view(-1, V), dim=-1), num_samples=1).view(ROWS, T)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(count):
            x, y = batch()
            losses.append(F.cross_entropy(model(x).view(-1, V), y.view(-1)))
        for _ in range(count):
            x, y = batch()
            pair = y.flatten(), drawn(x).flatten()
            scores.append(sklearn.precision_recall_fscore_support(*pair, average="weighted", zero_division=0)[:3])
        for _ in range(count):
            x, y = batch()
            matches.append(int((drawn(x) == y).sum()) / len(y))
    loss = float(torch.stack(losses).mean())
    return dict(zip(NAMES, (loss, math.exp(loss), *np.mean(scores, axis=0), np.mean(matches)), strict=True))


def batches(ids: np.ndarray, seed: int, rows: int = ROWS) -> RandomBatches:
    return RandomBatches(make_split(ids), T, rows, "cpu", seed)


@pytest.mark.parametrize("seed", range(4))
def test_same_draws_give_the_numbers_of_smol_gpt(model: GPT, ids: np.ndarray, seed: int) -> None:
    expected = restated(model, ids, seed)
    before = torch.get_rng_state()
    found = estimate_as_smol_gpt(model, batches(ids, seed), COUNT, CPU)
    assert tuple(found) == NAMES
    for name in NAMES:
        assert found[name].mean == pytest.approx(expected[name], abs=1e-5), name
    assert torch.equal(before, torch.get_rng_state())


def test_other_draws_lie_within_three_standard_errors(model: GPT, ids: np.ndarray) -> None:
    """And are as far apart as the standard errors say."""
    count, seeds = 2 * COUNT, range(6)
    expected = restated(model, ids, seed=1000, count=count)
    found = [estimate_as_smol_gpt(model, batches(ids, seed), COUNT, CPU) for seed in seeds]
    for name in NAMES:
        means, errors = np.array([[each[name].mean, each[name].stderr] for each in found]).T
        assert (np.abs(means - expected[name]) < 3 * errors * math.sqrt(1 + COUNT / count)).all(), name
        assert 0.5 < means.std(ddof=1) / errors.mean() < 1.6, name


def test_loss_on_random_batches_is_that_of_the_windows_drawn(
    model: GPT, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, again = np.arange(V) % 4, batches(ids, 3)
    nats, right, count = np.zeros((3, COUNT))
    for number in range(COUNT):
        window = again.draw()
        with torch.no_grad():
            logprobs = model(torch.from_numpy(window[:, :-1])).double().log_softmax(-1).numpy()
        nats[number] = -np.take_along_axis(logprobs, window[:, 1:, None], 2).sum()
        right[number] = (logprobs.argmax(-1) == window[:, 1:]).sum()
        count[number] = lengths[window[:, 1:]].sum()
    monkeypatch.setattr(module, "eval_batch_size", lambda *_: 3)  # the last part of a batch is smaller
    found = estimate_loss(model, batches(ids, 3), COUNT, lengths, CPU)
    loss, tokens = nats / (ROWS * T), COUNT * ROWS * T
    assert found["loss"].mean == pytest.approx(loss.mean(), rel=1e-5)
    assert found["loss"].stderr == pytest.approx(loss.std(ddof=1) / math.sqrt(COUNT), rel=1e-4)
    assert found["perplexity"].mean == pytest.approx(math.exp(loss.mean()), rel=1e-5)
    assert found["perplexity"].stderr == pytest.approx(
        math.exp(loss.mean()) * loss.std(ddof=1) / math.sqrt(COUNT), rel=1e-4
    )
    assert found["accuracy"].mean == pytest.approx(right.sum() / tokens)
    assert found["bits_per_byte"].mean == pytest.approx(nats.sum() / math.log(2) / count.sum(), rel=1e-5)


def test_standard_error_of_a_ratio_is_that_of_repeated_draws() -> None:
    random = np.random.default_rng(0)
    estimates = []
    for _ in range(400):
        below = random.uniform(1, 3, 20)
        estimates.append(Estimate.of_ratio(2 * below + random.normal(0, 1, 20), below))
    assert np.mean([each.mean for each in estimates]) == pytest.approx(2, abs=0.02)
    assert np.std([each.mean for each in estimates]) == pytest.approx(
        np.mean([each.stderr for each in estimates]), rel=0.1
    )


def test_single_batch_has_no_standard_error(model: GPT, ids: np.ndarray) -> None:
    found = estimate_as_smol_gpt(model, batches(ids, 0), 1, CPU)
    more = estimate_loss(model, batches(ids, 0), 1, np.ones(V, dtype=np.int64), CPU)
    assert {each.stderr for each in (*found.values(), *more.values())} == {None}
    assert more["loss"].mean == pytest.approx(found["loss"].mean)


def test_shortest_split_has_one_window(model: GPT) -> None:
    with pytest.raises(UserError, match="8 tokens: no window of 8"):
        batches(np.arange(T), 0)
    assert (batches(np.arange(T + 1), 0).draw() == np.arange(T + 1)).all()


@pytest.mark.parametrize("estimate", [estimate_as_smol_gpt, lambda *a: estimate_loss(*a[:3], np.ones(V, int), a[3])])
def test_damaged_weights_are_refused(ids: np.ndarray, estimate: Callable[..., object]) -> None:
    damaged = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=T, vocab_size=V), 0).eval()
    with torch.no_grad():
        damaged.norm.weight.fill_(float("nan"))  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="weights are damaged"):
        estimate(damaged, batches(ids, 0), COUNT, CPU)
