"""A run folder is created atomically, opened by reference, and never overwritten."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fledge.checkpoint import store
from fledge.checkpoint.state import State, capture
from fledge.core.config import to_toml
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.optim.config import OptimConfig
from fledge.optim.groups import build_optimizer
from fledge.runs.run_folder import RunFolder, create_run, find_run, free_name, list_runs, open_run, split_reference
from fledge.settings.pipeline import validated
from fledge.tokenizers.char import CharTokenizer

MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 8, "vocab_size": 11, "mlp_bias": True, "dropout": 0.3}
CreateRun = Callable[[str], RunFolder]


@pytest.fixture
def create(tmp_path: Path) -> CreateRun:
    def create_one(name: str) -> RunFolder:
        config = to_toml(validated({"model": MODEL}))
        return create_run(tmp_path / name, config, {"started": "today"}, CharTokenizer("abcdefghijk"))

    return create_one


def state_at(step: int, val_loss: float | None = None) -> State:
    model = build(ModelConfig(**MODEL), seed=step)  # type: ignore[arg-type]
    return capture(model, build_optimizer(model, OptimConfig(), torch.float32), step, val_loss=val_loss)


def test_new_run_has_all_its_files(create: CreateRun) -> None:
    run = create("first")
    assert {p.name for p in run.folder.iterdir()} == {"config.toml", "run.json", "tokenizer.json", "checkpoints"}
    assert run.metadata()["started"] == "today"
    assert run.metadata()["format"] == 1
    assert run.changed_files() == []
    assert run.tokenizer().decode([0, 2]) == "ac"
    assert run.model_config().n_embd == 16


def test_existing_run_is_not_overwritten(create: CreateRun) -> None:
    folder = create("first").folder
    with pytest.raises(UserError, match="first") as error:
        create("first")
    assert f"fledge resume {folder}" in error.value.hint


@pytest.mark.parametrize("name", ["config.toml", "tokenizer.json", "run.json"])
@pytest.mark.parametrize("change", [lambda raw: raw[:-9], lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]])
def test_changed_file_is_refused_by_name(
    create: CreateRun, tmp_path: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    file = create("first").folder / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=re.escape(str(file))):
        open_run("first", tmp_path)
    assert open_run("first", tmp_path, verify=False).folder == file.parent


def test_missing_file_counts_as_changed(create: CreateRun) -> None:
    run = create("first")
    run.tokenizer_file.unlink()
    assert run.changed_files() == ["tokenizer.json"]


def test_changed_hash_in_run_json_is_detected(create: CreateRun) -> None:
    run = create("first")
    (run.folder / "config.toml").write_text("")
    content = (run.folder / "run.json").read_text()
    before, after = run.metadata()["sha256"]["config.toml"], hashlib.sha256(b"").hexdigest()
    (run.folder / "run.json").write_text(content.replace(before, after))
    assert run.changed_files() == ["run.json"]


def test_replaced_config_is_not_a_changed_file(create: CreateRun) -> None:
    run = create("first")
    run.replace_config("[train]\n")
    assert run.changed_files() == []
    assert run.config() == {"train": {}}


def test_free_name_is_numbered(create: CreateRun, tmp_path: Path) -> None:
    assert free_name(tmp_path, "demo") == "demo"
    create("demo")
    create("demo-2")
    assert free_name(tmp_path, "demo") == "demo-3"


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("a", ("a", "latest")),
        ("a@best", ("a", "best")),
        ("a@1000", ("a", "1000")),
        ("x@y/a@best", ("x@y/a", "best")),
    ],
)
def test_split_reference(reference: str, parts: tuple[str, str]) -> None:
    assert split_reference(reference) == parts


def test_run_is_opened_by_name_and_by_path(create: CreateRun, tmp_path: Path) -> None:
    run = create("hamlet")
    assert open_run("hamlet", tmp_path).folder == run.folder
    assert open_run(str(run.folder), tmp_path / "elsewhere").folder == run.folder


def test_no_reference_opens_the_latest_run(
    create: CreateRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="no runs in"):
        open_run(None, tmp_path)
    for age, name in enumerate(("young", "old")):
        os.utime(create(name).folder / "config.toml", (1000 - age, 1000 - age))
    assert open_run(None, tmp_path).name == "young"
    assert open_run(None, tmp_path, default="best").selector == "best"
    assert "latest run: young" in capsys.readouterr().err


def test_unknown_run_is_refused_with_the_nearest_name(create: CreateRun, tmp_path: Path) -> None:
    create("hamlet")
    with pytest.raises(UserError, match="no run 'hamlt'") as error:
        open_run("hamlt@best", tmp_path)
    assert "hamlet" in error.value.hint
    assert find_run("hamlt", tmp_path) is None


def test_path_may_contain_an_at_sign(create: CreateRun, tmp_path: Path) -> None:
    run = create("me@home/first")
    store.save(run.checkpoints, state_at(1))
    assert open_run(f"{run.folder}@latest", tmp_path).load().checkpoint.step == 1
    assert open_run(str(run.folder), tmp_path).load().checkpoint.step == 1


def test_runs_are_listed_oldest_first_without_partial_ones(create: CreateRun, tmp_path: Path) -> None:
    for age, name in enumerate(("young", "old")):
        os.utime(create(name).folder / "config.toml", (1000 - age, 1000 - age))
    create(".partial-x")
    (tmp_path / "not-a-run").mkdir()
    assert [run.name for run in list_runs(tmp_path)] == ["old", "young"]
    assert list_runs(tmp_path / "nowhere") == []


def test_reference_selects_the_checkpoint(create: CreateRun, tmp_path: Path) -> None:
    run = create("first")
    states = {step: state_at(step, loss) for step, loss in ((1, 1.0), (2, 2.0))}
    for state in states.values():
        store.save(run.checkpoints, state)
    for reference, step in (("first", 1), ("first@best", 1), ("first@latest", 2), ("first@2", 2)):
        loaded = open_run(reference, tmp_path, default="best").load()
        assert loaded.checkpoint.step == step
        assert not loaded.model.training
        assert torch.equal(loaded.model.embed.weight, states[step].weights["embed.weight"])


def test_damaged_checkpoint_is_skipped_with_a_warning(
    create: CreateRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create("first")
    for step in (1, 2):
        store.save(run.checkpoints, state_at(step))
    (run.checkpoints / "step-00000002" / "model.safetensors").write_bytes(b"no")
    assert open_run("first@latest", tmp_path).load().checkpoint.step == 1
    warning = capsys.readouterr().err
    assert "step-00000002" in warning
    assert "model.safetensors" in warning


def test_only_one_process_holds_the_lock(create: CreateRun) -> None:
    run = create("first")
    with run.lock(), pytest.raises(UserError, match="another process"), run.lock():
        pass
    with run.lock():
        pass
