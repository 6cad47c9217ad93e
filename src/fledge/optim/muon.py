"""Muon: orthogonalized momentum, for the 2-D block weights; embedding, head and vectors use AdamW.

    momentum ← μ · momentum + gradient
    update   = orthogonalize(gradient + μ · momentum)     all singular values about 1, so all directions move alike
    weight   ← weight − lr · √max(1, rows / columns) · update

The matrices of a group have one shape: stacked, they take a few large products instead of many small ones.
The tests compare it with `torch.optim.Muon`, which takes the matrices one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Newton–Schulz: five steps of x ← a·x + b·x³ + c·x⁵ on the singular values bring all of them near 1. The coefficients
# maximize the slope at 0: small values must grow fast, and exactly 1 is not needed.
A, B, C = 3.4445, -4.7750, 2.0315
NS_STEPS = 5
MIN_NORM = 1e-7


def newton_schulz(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, rows, columns] → the nearest matrices whose singular values are all about 1, in `dtype`."""
    norm = matrices.norm(dim=(1, 2), keepdim=True).clamp(min=MIN_NORM)
    x = (matrices / norm).to(dtype)  # in this order: gradients are often too small for fp16
    tall = x.shape[1] > x.shape[2]
    if tall:  # the smaller of the two Gram matrices is enough
        x = x.mT
    for _ in range(NS_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


def orthogonalize(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Matrices of one shape → orthogonal updates, scaled up for tall ones."""
    updates = newton_schulz(torch.stack(list(matrices)), dtype).to(matrices[0].dtype)  # [N, rows, columns]
    updates *= max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
    return list(updates.unbind())


class Muon(torch.optim.AdamW):
    """Muon for the groups that have a `momentum`, AdamW for the others."""

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype, **adamw: Any) -> None:
        super().__init__(groups, **adamw)
        self.dtype = dtype  # of the matrix products
        self.orthogonalize: Callable[[Sequence[Tensor], torch.dtype], list[Tensor]] = orthogonalize

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            matrices = [p for p in group["params"] if "momentum" in group and p.grad is not None]
            if matrices:
                self._update(matrices, group["lr"], group["momentum"], group["weight_decay"])
        super().step()  # AdamW, for all parameters that still have a gradient
        return loss

    def _update(self, matrices: list[Tensor], lr: float, momentum: float, decay: float) -> None:
        gradients = [p.grad for p in matrices if p.grad is not None]
        for p in matrices:
            self.state[p] = self.state[p] or {"momentum_buffer": torch.zeros_like(p), "step": torch.tensor(0.0)}
            self.state[p]["step"] += 1  # AdamW.load_state_dict expects it
            p.grad = None
        buffers = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=momentum)  # Nesterov
        updates = self.orthogonalize(directions, self.dtype)
        if decay:
            # Cautious weight decay: only where it does not oppose the update. sign_() one by one: it has no foreach
            # kernel for DTensors.
            decays = [product.sign_() for product in torch._foreach_mul(matrices, updates)]
            torch._foreach_clamp_min_(decays, 0.0)
            torch._foreach_addcmul_(matrices, matrices, decays, value=-lr * decay)
        torch._foreach_add_(matrices, updates, alpha=-lr)
