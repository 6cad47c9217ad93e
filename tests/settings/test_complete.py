"""Settings that depend on the machine; what cannot work is refused."""

from dataclasses import dataclass
from typing import Any

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


def settings(parallel: str = "ddp", **sections: dict[str, Any]) -> Settings:
    train = {"steps": 10, "batch": 8, "compile": False, "chunked_loss": False, "parallel": parallel}
    return validated({"model": {**MODEL, "attention": "sdpa"}, "train": train}, sections)


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


def test_clipping_each_micro_batch_needs_one_process_and_no_loss_scale() -> None:
    clipping = settings(train={"clip_each": "micro_batch", "micro_batch": 2})
    for machine, reason in (
        (Machine("cpu", "float32", EightRanks()), "single process"),
        (Machine("cpu", "float16"), "float16"),
    ):
        with pytest.raises(UserError, match=reason) as refused:
            complete.decide_settings(clipping, TOKENS, 0, machine)
        assert "--train.clip_each update" in refused.value.hint
        complete.decide_settings(settings(), TOKENS, 0, machine)
    assert complete.decide_settings(clipping, TOKENS, 0, Machine("cpu", "bfloat16")).train.clip_each == "micro_batch"


def test_steps_of_an_epoch_are_computed_and_kept() -> None:
    by_epoch, machine = settings(optim={"schedule": "epoch_cosine"}, train={"epochs": 3}), Machine("cpu", "float32")
    windows = (TOKENS - 1 - MODEL["context"]) // MODEL["context"]
    decided = complete.decide_settings(by_epoch, TOKENS, 0, machine)
    assert decided.optim.steps_per_epoch == windows / 8
    assert decided.train.steps == round(3 * windows / 8)
    again = complete.decide_settings(decided, 2 * TOKENS, 0, machine)  # its config.toml on another text
    assert again.optim.steps_per_epoch == (2 * TOKENS - 1 - MODEL["context"]) // MODEL["context"] / 8
    assert complete.decide_settings(settings(), TOKENS, 0, machine).optim.steps_per_epoch is None
    with pytest.raises(UserError, match="steps_per_epoch is computed"):
        settings(optim={"steps_per_epoch": 10})


def test_fit_to_ngrams_needs_a_model_that_can_do_without_its_blocks() -> None:
    machine = Machine("cpu", "float32")
    for changes in ({"block": "post_norm"}, {"block": "norm_in_out"}, {"final_norm": False}):
        with pytest.raises(UserError, match=r"train\.ngram_steps") as refused:
            complete.decide_settings(settings(model=changes, train={"ngram_steps": 3}), TOKENS, 0, machine)
        assert "--train.ngram_steps 0" in refused.value.hint
        complete.decide_settings(settings(model=changes), TOKENS, 0, machine)
    assert complete.decide_settings(settings(train={"ngram_steps": 3}), TOKENS, 0, machine).train.ngram_steps == 3
