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
PATIENCE = 1000  # good steps before a larger scale is tried


class Scaling(Protocol):
    def enlarge(self, loss: Tensor) -> Tensor: ...

    def restore(self, gradients: Iterable[Tensor]) -> None:
        """To their true size."""

    def fits(self, norm: Tensor) -> bool:
        """Whether gradients of this norm can be used; if not, they are to be computed again."""

    def memory(self) -> dict[str, float] | None:
        """What a checkpoint keeps of it."""

    def remember(self, memory: dict[str, float] | None) -> None: ...


class Unscaled:
    """Of bf16 and fp32. Never looks at a number, so a GPU is not waited for."""

    def enlarge(self, loss: Tensor) -> Tensor:
        return loss

    def restore(self, gradients: Iterable[Tensor]) -> None: ...

    def fits(self, _: Tensor) -> bool:
        return True

    def memory(self) -> None:
        return None

    def remember(self, memory: dict[str, float] | None) -> None: ...


@dataclass
class Scaler:
    scale: float = 2.0**16
    good: int = 0  # steps since it last changed

    def enlarge(self, loss: Tensor) -> Tensor:
        return loss * self.scale

    def restore(self, gradients: Iterable[Tensor]) -> None:
        torch._foreach_mul_(list(gradients), 1 / self.scale)

    def fits(self, norm: Tensor) -> bool:
        if not math.isfinite(float(norm)) and self.scale > 1:
            self.scale, self.good = self.scale / 2, 0
            return False
        self.good += 1
        if self.good == PATIENCE:
            self.scale, self.good = min(2 * self.scale, LARGEST), 0
        return True

    def memory(self) -> dict[str, float]:
        return asdict(self)

    def remember(self, memory: dict[str, float] | None) -> None:
        if memory:
            self.scale, self.good = float(memory["scale"]), int(memory["good"])


SCALING: dict[str, type[Unscaled] | type[Scaler]] = {"float32": Unscaled, "bfloat16": Unscaled, "float16": Scaler}
