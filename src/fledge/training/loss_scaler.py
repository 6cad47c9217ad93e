"""Half precision: numbers below 6e-8 are nothing in fp16, and gradients are often smaller.

So the loss is multiplied before the way back, and the gradients are divided after it. A scale that was too large makes
them infinite: the same batch is then done again at half of it, so no step is ever lost. After many good steps a
larger one is tried. bf16 and fp32 reach down to 1e-38 and need none of this.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor

LARGEST = 2.0**24
GROWTH_INTERVAL = 1000  # good steps before a larger scale is tried


class LossScaling(Protocol):
    def scale_loss(self, loss: Tensor) -> Tensor: ...

    def unscale_(self, gradients: Iterable[Tensor]) -> None:
        """To their true size."""

    def accept(self, norm: Tensor) -> bool:
        """Whether gradients of this norm can be used; if not, they are to be computed again."""

    def state_dict(self) -> dict[str, float] | None:
        """What a checkpoint keeps of it."""

    def load_state_dict(self, memory: dict[str, float] | None) -> None: ...


class NoScaling:
    """Of bf16 and fp32. Never looks at a number, so a GPU is not waited for."""

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss

    def unscale_(self, gradients: Iterable[Tensor]) -> None: ...

    def accept(self, _: Tensor) -> bool:
        return True

    def state_dict(self) -> None:
        return None

    def load_state_dict(self, memory: dict[str, float] | None) -> None: ...


@dataclass
class LossScaler:
    scale: float = 2.0**16
    good: int = 0  # steps since it last changed

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss * self.scale

    def unscale_(self, gradients: Iterable[Tensor]) -> None:
        torch._foreach_mul_(list(gradients), 1 / self.scale)

    def accept(self, norm: Tensor) -> bool:
        if not math.isfinite(float(norm)) and self.scale > 1:
            self.scale, self.good = self.scale / 2, 0
            return False
        self.good += 1
        if self.good == GROWTH_INTERVAL:
            self.scale, self.good = min(2 * self.scale, LARGEST), 0
        return True

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, memory: dict[str, float] | None) -> None:
        if memory:
            self.scale, self.good = float(memory["scale"]), int(memory["good"])


LOSS_SCALERS: dict[str, type[NoScaling] | type[LossScaler]] = {
    "float32": NoScaling,
    "bfloat16": NoScaling,
    "float16": LossScaler,
}
