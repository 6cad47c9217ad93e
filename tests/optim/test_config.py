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
        {"min_lr": -1e-5, "allow_rising": True},
        {"min_lr": float("inf"), "allow_rising": True},
        {"decay_steps": 0},
        {"decay_steps": 100},  # where the warmup ends
        {"decay_steps": 500, "schedule": "constant"},
        {"decay_steps": 500, "schedule": "trapezoid"},
        {"steps_per_epoch": 0.0},
        {"steps_per_epoch": float("nan")},
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


def test_hint_names_allow_rising_where_the_rate_would_rise() -> None:
    with pytest.raises(UserError) as refusal:
        OptimConfig(lr=5e-4, min_lr=6e-4)
    assert "--optim.allow_rising true" in refusal.value.hint
    assert OptimConfig(lr=5e-4, min_lr=6e-4, allow_rising=True).min_lr == 6e-4
    with pytest.raises(UserError) as refusal:
        OptimConfig(min_lr=-1.0)
    assert "allow_rising" not in refusal.value.hint
