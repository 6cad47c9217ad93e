"""[train] and [track] check themselves."""

from typing import Any

import pytest

from fledge.core.errors import UserError
from fledge.tracking.config import TrackConfig
from fledge.training.config import TrainConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 0},
        {"micro_batch": 3},
        {"log_every": 0},
        {"save_every": 0},
        {"keep_last": 0},
        {"eval_every": -1},
        {"sample_every": -1},
        {"save_seconds": -1.0},
        {"save_seconds": float("nan")},
        {"history": -1},
        {"grad_clip": -1.0},
        {"grad_clip": float("nan")},
        {"epochs": 0.0},
        {"epochs": float("nan")},
        {"seed": -1},
        {"patience": 0},
        {"patience": 3, "eval_every": 0},
        {"clip_each": "micro_batch", "grad_clip": 0},
        {"clip_each": "micro_batch", "micro_batch": "auto"},
    ],
    ids=str,
)
def test_invalid_train_setting_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"train.{next(iter(wrong))}"):
        TrainConfig(**wrong)


def test_hint_lists_valid_micro_batches() -> None:
    with pytest.raises(UserError) as refusal:
        TrainConfig(batch=12, micro_batch=5)
    assert "1, 2, 3, 4, 6, 12" in refusal.value.hint


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"sample_tokens": -1}], ids=str
)
def test_invalid_track_setting_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        TrackConfig(**wrong)
