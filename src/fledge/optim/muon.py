"""Muon: momentum, made orthogonal. For the matrices of blocks; embeddings, heads and vectors follow AdamW.

    velocity ← μ · velocity + gradient
    update   = orthogonal(gradient + μ · velocity)        every direction of a matrix moves by the same amount
    weight   ← weight − lr · √max(1, rows / columns) · update

The matrices of a group have one shape: stacked, they take a few large products instead of many small ones.
The judge is `torch.optim.Muon`, which takes them one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Five turns of x ← a·x + b·x³ + c·x⁵ on the singular values bring all of them near one. Chosen for the steepest
# beginning: small values must grow fast, and exactly one is not needed.
A, B, C = 3.4445, -4.7750, 2.0315
NS_STEPS = 5
TINY = 1e-7


def newton_schulz(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrices whose singular values are all about one. [N, rows, columns] → the same, in `dtype`."""
    length = matrices.norm(dim=(1, 2), keepdim=True).clamp(min=TINY)
    x = (matrices / length).to(dtype)  # in this order: gradients are often too small for fp16
    tall = x.shape[1] > x.shape[2]
    if tall:  # the smaller of the two products is enough
        x = x.mT
    for _ in range(NS_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


def orthogonalize(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Orthogonal, and longer where they are tall."""
    update = newton_schulz(torch.stack(list(matrices)), dtype).to(matrices[0].dtype)  # [N, rows, columns]
    update *= max(1.0, update.shape[1] / update.shape[2]) ** 0.5
    return list(update.unbind())


class Muon(torch.optim.AdamW):
    """For groups that have a `momentum`; the others follow AdamW."""

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self.dtype = dtype  # of the products
        self.turn: Callable[[Sequence[Tensor], torch.dtype], list[Tensor]] = orthogonalize

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None  # it makes the gradients
        for group in self.param_groups:
            matrices = [p for p in group["params"] if "momentum" in group and p.grad is not None]
            if matrices:
                self._update(matrices, group["lr"], group["momentum"], group["weight_decay"])
        super().step()  # of all that still has a gradient
        return loss

    def _update(self, matrices: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        gradients = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            self.state[p] = self.state[p] or {"velocity": torch.zeros_like(p), "step": torch.tensor(0.0)}
            self.state[p]["step"] += 1  # AdamW, which loads it, looks for that
            p.grad = None
        velocities = [self.state[p]["velocity"] for p in matrices]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients)
        wanted = torch._foreach_add(gradients, velocities, alpha=momentum)
        changes = self.turn(wanted, self.dtype)
        if decay:
            # Only where it does not work against the change. Signs one by one: no kernel takes all of spread matrices.
            pulled = [each.sign_() for each in torch._foreach_mul(matrices, changes)]
            torch._foreach_clamp_min_(pulled, 0.0)
            torch._foreach_addcmul_(matrices, matrices, pulled, value=-lr * decay)
        torch._foreach_add_(matrices, changes, alpha=-lr)
