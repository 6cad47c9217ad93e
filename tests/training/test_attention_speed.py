"""The attention that training takes is the one that was measured to be faster, and the answer is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.training import attention_speed
from fledge.training.attention_speed import fastest_attention, measure_attention

MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=16, context=32, vocab_size=11, window=7)


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    calls = []

    def set_speeds(sdpa: float, blocked: float) -> list[int]:
        def measured(*given: Any) -> dict[str, float]:
            calls.append(given[1])
            return {"sdpa": sdpa, "blocked": blocked}

        monkeypatch.setattr(attention_speed, "measure_attention", measured)
        return calls

    return set_speeds


@pytest.mark.parametrize(
    ("sdpa", "blocked", "fastest"), [(2.0, 1.0, "blocked"), (1.0, 1.0, "sdpa"), (1.05, 1.0, "sdpa"), (1.0, 2.0, "sdpa")]
)
def test_blocked_attention_is_chosen_if_clearly_faster(speeds: Any, sdpa: float, blocked: float, fastest: str) -> None:
    speeds(sdpa, blocked)
    assert fastest_attention(MODEL, 8, Machine("cpu", "bfloat16")) == fastest


def test_measurement_is_cached_by_shape(speeds: Any) -> None:
    calls = speeds(2.0, 1.0)
    assert fastest_attention(MODEL, 8, Machine("cpu", "bfloat16")) == "blocked"
    speeds(1.0, 2.0)
    assert fastest_attention(MODEL, 8, Machine("cpu", "bfloat16")) == "blocked"
    assert fastest_attention(MODEL, 4, Machine("cpu", "bfloat16")) == "sdpa"
    assert calls == [8, 4]


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float32"), ("cuda", "bfloat16"), ("mps", "float32")])
def test_gpu_and_fp32_use_sdpa_without_measuring(speeds: Any, device: Any, dtype: Any) -> None:
    calls = speeds(2.0, 1.0)
    assert fastest_attention(MODEL, 8, Machine(device, dtype)) == "sdpa"
    assert calls == []


def test_both_are_measured() -> None:
    seconds = measure_attention(MODEL, 2, torch.bfloat16)
    assert set(seconds) == {"sdpa", "blocked"}
    assert min(seconds.values()) > 0
