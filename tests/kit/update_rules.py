"""Our training of a preset at a reduced size, beside a re-statement of the program that the preset comes from.

A re-statement is that program's model and its update rule in plain torch: its modules, its optimizer, its learning rate
of every update, how it accumulates and clips. The published values stand in it as numbers, so that a wrong value in a
preset makes a difference. Our side is what `fledge train` builds from the preset; only its size is overridden.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fledge.core.config import Layer
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.model.gpt import GPT
from fledge.settings.complete import decide_settings
from fledge.settings.pipeline import resolve
from fledge.training.setup import NextToken, build_training
from fledge.training.step import TrainStep

V, T, C = 50, 12, 24  # vocabulary, context, width
SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": C, "context": T, "vocab_size": V, "attention": "readable"}
STEPS = 50
TOLERANCE = 1e-4
HEAD_STD = 0.7
Rows = tuple[Tensor, Tensor]  # inputs and targets, [B, T] each
Named = Callable[[nn.Module], dict[str, Tensor]]  # a re-statement → its parameters by our names


def random_ids(count: int) -> NDArray[np.uint16]:
    return np.random.default_rng(5).integers(0, V, count).astype(np.uint16)


def training(preset: str, ids: NDArray[np.uint16], overrides: Layer) -> TrainStep:
    """What `fledge train` makes of a preset, with a small model and these settings."""
    model = {**SHAPE, "dropout": 0.0, **overrides.get("model", {})}
    train = {"device": "cpu", "dtype": "float32", "compile": False, **overrides.get("train", {})}
    settings = resolve(preset, {**overrides, "model": model, "train": train})
    machine, split = Machine("cpu", "float32"), Split("train", [ids], [np.zeros(1)])
    complete = decide_settings(settings, len(ids), 0, machine)
    return build_training(complete, machine, NextToken(complete, machine, split))


def sampled(step: TrainStep, steps: int = STEPS) -> Iterator[list[Rows]]:
    """The micro-batches of each update, as our sampler gives them."""
    for number in range(steps):
        yield [(batch.inputs, batch.targets) for batch in step.micro_batches(number)]


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def cosine(step: float, steps: float, peak: float, final: float) -> float:
    """From the peak to the final rate in so many steps."""
    return final + (peak - final) * (1 + math.cos(math.pi * step / steps)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def check_updates(step: TrainStep, model: nn.Module, named: Named, updates: Iterable[tuple[float, float]]) -> int:
    """Train both from the same weights. `updates` makes those of `model` and yields loss and learning rate of each.

    The head is confident and wrong at first, so that the gradient is long enough to be clipped.
    """
    weights = named(model)
    with torch.no_grad():
        head = weights.get("head.weight", weights["embed.weight"])
        head.mul_(HEAD_STD / head.std())
    copy_weights(weights, step.model)
    number, norms = -1, []
    for number, (loss, rate) in enumerate(updates):
        ours = step(number)
        assert ours.loss == pytest.approx(loss, abs=TOLERANCE), f"loss of update {number}"
        assert ours.lr == pytest.approx(rate, rel=1e-6, abs=1e-11), f"learning rate of update {number}"
        norms.append(ours.grad_norm)
    assert max(norms) > 1.2
    theirs = named(model)
    for name, weight in step.model.named_parameters():
        if not name.endswith("key.bias"):  # adds the same to all scores of a query: its gradient is rounding error
            torch.testing.assert_close(weight, theirs[name], atol=TOLERANCE, rtol=0.0, msg=named_error(name))
    return number + 1


def check_random_windows(preset: str) -> None:
    """Drawn with replacement: they begin at every token that has a whole window after it."""
    ids = np.arange(60).astype(np.uint16)
    sizes = {"model": {"vocab_size": 60}, "train": {"batch": 8, "micro_batch": 8, "steps": STEPS}}
    starts = [int(row[0]) for ((inputs, _),) in sampled(training(preset, ids, sizes)) for row in inputs]
    assert set(starts) == set(range(60 - T))
    assert len(set(starts[: 60 - T])) < 60 - T


@torch.no_grad()
def copy_weights(theirs: dict[str, Tensor], model: GPT) -> None:
    ours = dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.shape == theirs[name].shape, name
        weight.copy_(theirs[name])


def check_dropout(preset: str, monkeypatch: pytest.MonkeyPatch, model: nn.Module, named: Named, **shape: float) -> None:
    """The same numbers are dropped: a third of the last dimension, scaled by the preset's own rate.

    Features of embeddings, projections, branches and the stream, or keys of attention weights: each place changes the
    loss in its own way.
    """

    def drop(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        kept = torch.arange(x.shape[-1]) % 3 != 0
        return x * kept / (1 - p) if training and p else x

    monkeypatch.setattr(F, "dropout", drop)
    shape = {**shape, "dropout": resolve(preset).model.dropout}
    ours = training(preset, random_ids(400), {"model": shape}).model.train()
    copy_weights(named(model), ours)
    ids = torch.from_numpy(random_ids(3 * T).astype(np.int64)).view(3, T)
    torch.testing.assert_close(ours(ids), model.train()(ids), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours(ids), ours.eval()(ids), atol=1e-3)


def check_initialization(preset: str, model: nn.Module, named: Named, **shape: int) -> None:
    """Each parameter has the distribution of its counterpart: spread, extremes, and mean."""
    ours = training(preset, random_ids(400), {"model": shape}).model
    theirs = named(model)
    assert dict(ours.named_parameters()).keys() == theirs.keys()
    for name, weight in ours.named_parameters():
        one, two, count = weight.detach(), theirs[name].detach(), weight.numel()
        if two.std() == 0:
            torch.testing.assert_close(one, two, msg=named_error(name))
            continue
        assert float(one.std()) == pytest.approx(float(two.std()), rel=5 / count**0.5), name
        assert abs(float(one.mean() - two.mean())) < 7 * float(two.std()) / count**0.5, name
        assert is_uniform(one) == is_uniform(two), name
        if is_uniform(two):
            assert float(one.abs().max()) == pytest.approx(float(two.abs().max()), rel=20 / count), name


def named_error(name: str) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"


def is_uniform(weight: Tensor) -> bool:
    """A uniform distribution ends at √3 standard deviations, a normal one does not."""
    return float(weight.abs().max() / weight.std()) < 2
