"""Muon: momentum, made orthogonal. For the matrices of blocks; embeddings, heads and vectors follow AdamW.

    velocity ← μ · velocity + gradient
    update   = orthogonal(gradient + μ · velocity)        every direction of a matrix moves by the same amount
    weight   ← weight − lr · √max(1, rows / columns) · update        after its decay

Matrices of one shape are stacked and made orthogonal together: few large products instead of many small ones.
The judge is `torch.optim.Muon`, which takes them one by one.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Five turns of x ← a·x + b·x³ + c·x⁵ on the singular values bring all of them near one. Chosen for the steepest
# beginning: small values must grow fast, and exactly one is not needed.
A, B, C = 3.4445, -4.7750, 2.0315
TURNS = 5
TINY = 1e-7


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrices whose singular values are all about one. [N, rows, columns] → the same, in `dtype`."""
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:  # the smaller of the two products is enough
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=TINY)
    for _ in range(TURNS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """`cautious`: the decay pulls only where it does not work against the update."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        cautious: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.cautious, self.dtype = cautious, dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "gradients are computed before"
        for group in self.param_groups:
            for matrices in by_shape(p for p in group["params"] if p.grad is not None):
                self._update(matrices, group["lr"], group["weight_decay"], group["momentum"])

    def _update(self, matrices: list[Tensor], lr: float, decay: float, momentum: float) -> None:
        gradients = [p.grad for p in matrices if p.grad is not None]
        velocities = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in matrices]
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, gradients)
        wanted = torch._foreach_add(gradients, velocities, alpha=momentum)
        rows, columns = matrices[0].shape
        update = orthogonal(torch.stack(wanted), self.dtype).to(matrices[0].dtype)  # [N, rows, columns]
        updates = list(update.mul_(max(1.0, rows / columns) ** 0.5).unbind())
        if decay:
            self._decay(matrices, updates, lr * decay)
        torch._foreach_add_(matrices, updates, alpha=-lr)

    def _decay(self, matrices: list[Tensor], updates: list[Tensor], strength: float) -> None:
        if not self.cautious:
            torch._foreach_mul_(matrices, 1 - strength)
            return
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.addcmul_(matrix, (matrix * update > 0).to(matrix.dtype), value=-strength)


def by_shape(matrices: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        groups.setdefault(matrix.shape, []).append(matrix)
    return list(groups.values())
