"""Settings that depend on the machine; what cannot work is refused."""

from dataclasses import dataclass

import pytest

from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.flops import parameter_count
from fledge.settings import complete
from fledge.settings.pipeline import validated
from fledge.training.config import Settings

MODEL = {"n_layer": 24, "n_head": 4, "n_embd": 512, "context": 64, "vocab_size": 1000}
TOKENS = 10_000


@dataclass(frozen=True)
class EightRanks(World):
    size: int = 8


def settings(parallel: str) -> Settings:
    train = {"steps": 10, "batch": 8, "compile": False, "chunked_loss": False, "parallel": parallel}
    return validated({"model": {**MODEL, "attention": "sdpa"}, "train": train})


@pytest.fixture
def half_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 16 * parameter_count(ModelConfig(**MODEL))  # type: ignore[arg-type]
    monkeypatch.setattr(complete, "total_memory", lambda _: needed // 2)


@pytest.mark.usefixtures("half_the_memory")
def test_model_too_large_for_one_device_trains_with_fsdp() -> None:
    machine = Machine("cpu", "float32", EightRanks())
    assert complete.decide_settings(settings("fsdp"), TOKENS, 0, machine).train.steps == 10
    with pytest.raises(UserError, match="parameters takes") as refused:
        complete.decide_settings(settings("ddp"), TOKENS, 0, machine)
    assert "--train.parallel fsdp" in refused.value.hint


@pytest.mark.usefixtures("half_the_memory")
def test_model_too_large_for_a_single_process_is_refused() -> None:
    with pytest.raises(UserError, match="parameters takes") as refused:
        complete.decide_settings(settings("fsdp"), TOKENS, 0, Machine("cpu", "float32"))
    assert "fsdp" not in refused.value.hint
