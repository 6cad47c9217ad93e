"""Loss scaling for fp16, whose smallest number is 6e-8: many gradients are smaller.

The loss is multiplied before the backward pass and the gradients are divided after it. A scale that is too large makes
them infinite: the same batch is then repeated at half the scale, so no step is lost. After many good steps a larger
scale is tried. bf16 and fp32 reach down to 1e-38 and need none of this.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

MAX_SCALE = 2.0**24
GROWTH_INTERVAL = 1000  # good steps before a larger scale is tried


class LossScaling(Protocol):
    def scale_loss(self, loss: Tensor) -> Tensor: ...

    def unscale_(self, gradients: Iterable[Tensor]) -> None: ...

    def accept(self, norm: Tensor) -> bool:
        """Whether gradients of this norm can be used; if not, compute them again at the new scale."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoScaling:
    """For bf16 and fp32. Never reads a number, so it never waits for a GPU."""

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss

    def unscale_(self, gradients: Iterable[Tensor]) -> None: ...

    def accept(self, _: Tensor) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class LossScaler:
    """For fp16."""

    scale: float = 2.0**16
    good_steps: int = 0  # since the scale last changed

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss * self.scale

    def unscale_(self, gradients: Iterable[Tensor]) -> None:
        torch._foreach_mul_(list(gradients), 1 / self.scale)

    def accept(self, norm: Tensor) -> bool:
        if not math.isfinite(float(norm)) and self.scale > 1:
            self.scale, self.good_steps = self.scale / 2, 0
            return False
        self.good_steps += 1
        if self.good_steps == GROWTH_INTERVAL:
            self.scale, self.good_steps = min(2 * self.scale, MAX_SCALE), 0
        return True

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = float(state.get("scale", self.scale))
        self.good_steps = int(state.get("good_steps", 0))


LOSS_SCALERS: dict[str, type[NoScaling] | type[LossScaler]] = {
    "float32": NoScaling,
    "bfloat16": NoScaling,
    "float16": LossScaler,
}
