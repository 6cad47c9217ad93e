"""The critic of PPO: a model of its own that learns how much reward is still to come after each token.

It begins as the reference model with a value head, and has an optimizer and a learning rate of its own. A value head on
the policy's own trunk costs less, and explained none of the returns where it was tried (numbers: docs/alignment.md).

Every rank holds all of it; gradients of its share of an update are summed, as those of the policy are.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.losses.cross_entropy import IGNORE, count_valid
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.model.lora import freeze_base

MODEL = "model"  # the first part of the names of its weights in a checkpoint


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½ (V - G)²; with a clip ε_v > 0: ½ max( (V - G)², (V_old + clip(V - V_old, -ε_v, ε_v) - G)² )"""
    errors = (values - returns).square()
    if clip:
        limited = old_values + (values - old_values).clamp(-clip, clip)
        errors = torch.maximum(errors, (limited - returns).square())
    return 0.5 * errors


class Critic:
    """State of a run: weights, and the optimizer's moments."""

    def __init__(
        self,
        reference: Callable[[], GPT],
        config: ModelConfig,
        machine: Machine,
        *,
        seed: int,
        lr: float,
        clip: float,
        grad_clip: float,
    ) -> None:
        # fp16 needs a loss scale, which is the policy's business
        self.machine = replace(machine, dtype="float32") if machine.dtype == "float16" else machine
        self._reference, self._config, self._seed = reference, replace(config, value_head=True), seed
        self._lr, self._clip, self._grad_clip = lr, clip, grad_clip or float("inf")
        self._reset()

    def _reset(self) -> None:
        model = build(self._config, self._seed)
        model.load_state_dict(self._reference().state_dict(), strict=False)  # adapters and value head stay as built
        self.model = freeze_base(model.to(self.machine.device))
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, self._lr, weight_decay=0.0)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """V before each token of the answers [B, T], 0 elsewhere."""
        with self.machine.autocast():
            return self.model.values(batch.inputs) * (batch.targets != IGNORE)

    def fit(self, updates: Iterable[Sequence[Batch]]) -> float:
        """An update for each list of micro-batches; extra: old_values and returns [B, T]. → mean loss of a token"""
        sums = torch.zeros(2, dtype=torch.double)
        for batches in updates:
            world = self.machine.world
            count = world.all_reduce_sum(torch.stack([count_valid(batch.targets) for batch in batches]).sum())
            self.optimizer.zero_grad(set_to_none=True)
            for batch in batches:
                loss = self._loss(batch)
                (loss / count).backward()
                sums += torch.tensor([float(loss.detach()), float(count_valid(batch.targets))])
            for p in self.optimizer.param_groups[0]["params"]:
                if p.grad is not None:  # the head of the vocabulary has none
                    world.all_reduce_sum(p.grad)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_clip)
            self.optimizer.step()
        total, tokens = self.machine.world.all_reduce_sum(sums).tolist()
        return total / max(1.0, tokens)

    def _loss(self, batch: Batch) -> Tensor:
        """Summed over the tokens of the answers."""
        with self.machine.autocast():
            values = self.model.values(batch.inputs)
        each = value_loss(values, batch.extra["old_values"], batch.extra["returns"], self._clip)
        return (each * (batch.targets != IGNORE)).sum()

    def state_dict(self) -> dict[str, Any]:
        tensors = {f"{MODEL}/{name}": p.detach() for name, p in self.model.named_parameters()}
        for name, p in self.model.named_parameters():
            tensors |= {f"{kind}/{name}": tensor for kind, tensor in self.optimizer.state.get(p, {}).items()}
        return tensors

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reset()
        for name, p in self.model.named_parameters():
            held = {key.partition("/")[0]: tensor for key, tensor in state.items() if key.partition("/")[2] == name}
            if MODEL in held:
                p.copy_(held.pop(MODEL))
            if held:
                device = {kind: tensor.clone() if kind == "step" else tensor.to(p) for kind, tensor in held.items()}
                self.optimizer.state[p] = device
