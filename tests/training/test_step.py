"""One update: the same as a loop written by hand, however the batch is cut."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fledge.batches.loader import Batch, Loader, WindowReader
from fledge.batches.orders import SAMPLERS
from fledge.batches.sampler import WindowSampler
from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.optim.schedule import lr_multiplier
from fledge.training.micro_batch import FixedMicroBatch
from fledge.training.parallel import wrap
from fledge.training.step import BatchGradient, TrainStep

CPU = Machine("cpu", "float32")
MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=13)
OPTIM = OptimConfig(lr=0.02, min_lr=0.002, warmup_steps=2, weight_decay=0.2)
STEPS, BATCH = 6, 4
IDS = np.random.default_rng(0).integers(0, 13, 400).astype(np.uint16)


def stepper(micro_batch: int = BATCH, clip: float = 0.5, order: str = "shuffled") -> TrainStep:
    model = build(MODEL, 1)
    sampler = SAMPLERS[order](len(IDS), MODEL.context, MODEL.context, 1, BATCH)
    windows = WindowReader(Split("train", [IDS], [np.zeros(1)]), sampler)
    return TrainStep(
        model=model,
        loss=wrap(model, CPU, compile=False),
        optimizer=build_optimizer(model, OPTIM, CPU.torch_dtype),
        batches=FixedMicroBatch(Loader(windows, BATCH, CPU), micro_batch),
        multiplier=partial(lr_multiplier, OPTIM, steps=STEPS),
        initial_lr=OPTIM.lr,
        grad_clip=clip,
    )


@pytest.mark.parametrize("clip", [0.0, 0.05, 100.0])
def test_step_equals_a_plain_training_loop(clip: float) -> None:
    ours = stepper(clip=clip)
    model = build(MODEL, 1)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    order = WindowSampler(len(IDS), MODEL.context, MODEL.context, 1)
    for step in range(STEPS):
        starts = order.starts(step * BATCH, BATCH)
        rows = torch.stack([torch.from_numpy(IDS[s : s + 9].astype(np.int64)) for s in starts])
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 13), rows[:, 1:].reshape(-1))
        loss.backward()
        norm = torch.sqrt(sum((p.grad.square().sum() for p in model.parameters()), torch.zeros(())))
        if clip and norm > clip:
            for p in model.parameters():
                p.grad.mul_(clip / norm)
        for group in optimizer.param_groups:
            group["lr"] = OPTIM.lr * lr_multiplier(OPTIM, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        result = ours(step)
        assert result.step == step + 1
        assert result.tokens == BATCH * 8
        assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
        assert result.lr == OPTIM.lr * lr_multiplier(OPTIM, step, STEPS)
    for (name, one), two in zip(ours.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4, msg=name)


def test_clipping_each_micro_batch_equals_a_plain_loop() -> None:
    """As SmollGPT trains: the gradient that has accumulated is clipped after every backward pass."""
    ours, clip = stepper(micro_batch=1, clip=0.05), 0.05
    ours.clip_each = "micro_batch"
    model = build(MODEL, 1)
    optimizer = build_optimizer(model, OPTIM, CPU.torch_dtype)
    order = WindowSampler(len(IDS), MODEL.context, MODEL.context, 1)
    differed = False
    for step in range(STEPS):
        unclipped = [torch.zeros_like(p) for p in model.parameters()]
        for start in order.starts(step * BATCH, BATCH):
            row = torch.from_numpy(IDS[start : start + 9].astype(np.int64))
            loss = F.cross_entropy(model(row[None, :-1])[0], row[1:]) / BATCH
            before = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
            loss.backward()
            for total, p, old in zip(unclipped, model.parameters(), before, strict=True):
                total += p.grad - old
            norm = torch.sqrt(sum((p.grad.square().sum() for p in model.parameters()), torch.zeros(())))
            if norm > clip:
                for p in model.parameters():
                    p.grad.mul_(clip / norm)
        direction = torch.cat([p.grad.flatten() for p in model.parameters()])
        once = torch.cat([total.flatten() for total in unclipped])
        differed |= bool(torch.cosine_similarity(direction, once, dim=0) < 0.999)
        for group in optimizer.param_groups:
            group["lr"] = OPTIM.lr * lr_multiplier(OPTIM, step, STEPS)
        optimizer.step()
        optimizer.zero_grad()
        assert ours(step).grad_norm == pytest.approx(float(norm), rel=1e-4)  # before the last clipping
    assert differed  # from clipping once per update
    for (name, one), two in zip(ours.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulation_equals_the_whole_batch(micro_batch: int) -> None:
    whole, pieces = stepper(BATCH), stepper(micro_batch)
    one, two = whole(0), pieces(0)
    assert one.loss == pytest.approx(two.loss, rel=1e-6)
    assert one.grad_norm == pytest.approx(two.grad_norm, rel=1e-5)
    # Adam divides by the size of a gradient, so compare the gradient's memory, and the weights where it is not noise.
    for (name, a), b in zip(whole.model.named_parameters(), pieces.model.parameters(), strict=True):
        mean_a, mean_b = (s.optimizer.state[p]["exp_avg"] for s, p in ((whole, a), (pieces, b)))
        torch.testing.assert_close(mean_a, mean_b, atol=1e-6, rtol=1e-5, msg=name)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


def test_step_time_includes_waiting_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is handed work that it has not done yet: asking for a number waits for it."""

    class Late:
        def __float__(self) -> float:
            time.sleep(0.05)
            return 1.0

    ours = stepper()
    found = BatchGradient(Late(), Late(), torch.tensor(BATCH * 8))  # type: ignore[arg-type]
    monkeypatch.setattr(ours, "_gradient", lambda _: found)
    assert ours(0).seconds >= 0.1


def test_gradients_are_cleared_after_the_step() -> None:
    ours = stepper()
    ours(0)
    assert all(p.grad is None for p in ours.model.parameters())


def test_loss_decreases() -> None:
    ours = stepper(clip=1.0)
    ours.multiplier = lambda _: 1.0
    losses = [ours(step % 3).loss for step in range(60)]
    assert losses[-1] < losses[0] / 2


def test_wrapped_model_keeps_its_weight_names() -> None:
    model = build(MODEL, 0)
    wrap(model, CPU, compile=False)
    assert all(not name.startswith(("_orig_mod", "module", "model")) for name, _ in model.named_parameters())


def test_bf16_keeps_weights_and_loss_in_fp32(tmp_path: Path) -> None:
    model = build(MODEL, 0)
    batch = Batch(torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    loss = wrap(model, Machine("cpu", "bfloat16"), compile=False)(batch).total
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("micro_batch", [1, 4])  # 1: some of them have no window
def test_short_last_batch_of_an_epoch_is_a_mean_over_its_rows(micro_batch: int) -> None:
    ours, model = stepper(micro_batch, clip=0.0, order="sequential"), build(MODEL, 1)
    last = 49 // BATCH  # of the 49 windows one is left
    row = torch.from_numpy(IDS[48 * 8 : 49 * 8 + 1].astype(np.int64))[None]
    loss = F.cross_entropy(model(row[:, :-1])[0], row[0, 1:])
    loss.backward()
    norm = torch.sqrt(sum((p.grad.square().sum() for p in model.parameters()), torch.zeros(())))
    result = ours(last)
    assert result.tokens == 8
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-4)
