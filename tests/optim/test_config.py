"""[optim] refuses invalid values."""

from typing import Any

import pytest

from fledge.core.errors import UserError
from fledge.optim.config import OptimConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"min_lr": 2e-3},
        {"min_lr": -1e-5},
        {"min_lr": float("nan")},
        {"warmup_steps": -1},
        {"cooldown": 1.1},
        {"weight_decay": -0.1},
        {"weight_decay": float("nan")},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"eps": 0.0},
    ],
    ids=str,
)
def test_invalid_values_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"optim.{next(iter(wrong))}"):
        OptimConfig(**wrong)
