"""A run folder is made whole, found by name, and never overwritten."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fledge.checkpoint import store
from fledge.checkpoint.state import State
from fledge.core.config import to_toml
from fledge.core.errors import UserError
from fledge.runs import run_folder as runs
from fledge.settings.pipeline import validated
from fledge.tokenizers.char import CharTokenizer

MODEL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 8, "vocab_size": 11, "mlp_bias": True, "dropout": 0.3}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], runs.RunFolder]:
    def make_one(name: str) -> runs.RunFolder:
        config = to_toml(validated({"model": MODEL}))
        return runs.create_run(tmp_path / name, config, {"started": "today"}, CharTokenizer("abcdefghijk"))

    return make_one


def test_a_new_run_is_whole_from_its_first_moment(make: Callable[[str], runs.RunFolder]) -> None:
    run = make("first")
    assert {p.name for p in run.folder.iterdir()} == {"config.toml", "run.json", "tokenizer.json", "checkpoints"}
    assert run.facts()["started"] == "today"
    assert run.changed() == []
    assert run.tokenizer().decode([0, 2]) == "ac"
    assert run.model_config().n_embd == 16


def test_a_run_is_never_overwritten(make: Callable[[str], runs.RunFolder]) -> None:
    make("first")
    with pytest.raises(UserError, match="first") as refusal:
        make("first")
    assert "fledge resume first" in refusal.value.hint


@pytest.mark.parametrize("name", ["config.toml", "tokenizer.json", "run.json"])
@pytest.mark.parametrize("change", [lambda raw: raw[:-9], lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:]])
def test_a_file_that_is_not_what_it_was_is_named_before_it_is_believed(
    make: Callable[[str], runs.RunFolder], name: str, change: Callable[[bytes], bytes]
) -> None:
    file = make("first").folder / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=re.escape(str(file))):
        runs.load_run("first", file.parents[1])


def test_a_file_that_is_gone_is_one_that_changed(make: Callable[[str], runs.RunFolder]) -> None:
    run = make("first")
    (run.folder / "tokenizer.json").unlink()
    assert run.changed() == ["tokenizer.json"]


def test_the_hashes_of_a_run_cannot_be_changed_along_with_its_files(make: Callable[[str], runs.RunFolder]) -> None:
    run = make("first")
    (run.folder / "config.toml").write_text("")
    about = (run.folder / "run.json").read_text()
    before, after = run.facts()["sha256"]["config.toml"], hashlib.sha256(b"").hexdigest()
    (run.folder / "run.json").write_text(about.replace(before, after))
    assert run.changed() == ["run.json"]


def test_a_run_that_was_made_before_there_were_seals_still_opens(make: Callable[[str], runs.RunFolder]) -> None:
    run = make("first")
    (run.folder / "run.json").write_text('{"started": "yesterday"}')
    assert run.changed() == []
    run.refuse_changed()


def test_a_free_name_is_numbered(make: Callable[[str], runs.RunFolder], tmp_path: Path) -> None:
    assert runs.free_name(tmp_path, "demo") == "demo"
    make("demo")
    make("demo-2")
    assert runs.free_name(tmp_path, "demo") == "demo-3"


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("a", ("a", "latest")),
        ("a@best", ("a", "best")),
        ("a@1000", ("a", "1000")),
        ("x@y/a@best", ("x@y/a", "best")),
    ],
)
def test_a_reference_is_a_name_and_which(reference: str, parts: tuple[str, str]) -> None:
    assert runs.split_reference(reference) == parts


def test_a_run_is_found_by_name_and_by_path(make: Callable[[str], runs.RunFolder], tmp_path: Path) -> None:
    run = make("hamlet")
    assert runs.open_run("hamlet", tmp_path).folder == run.folder
    assert runs.open_run(str(run.folder), tmp_path / "elsewhere").folder == run.folder


def test_a_misspelt_run_is_refused_with_the_nearest_name(make: Callable[[str], runs.RunFolder], tmp_path: Path) -> None:
    make("hamlet")
    with pytest.raises(UserError, match="no run 'hamlt'") as refusal:
        runs.open_run("hamlt", tmp_path)
    assert "hamlet" in refusal.value.hint


def test_a_path_with_an_at_sign_is_still_a_path(
    make: Callable[[str], runs.RunFolder], tmp_path: Path, state_at: Callable[..., State]
) -> None:
    run = make("me@home/first")
    store.save(run.checkpoints, state_at(1))
    assert runs.load_run(f"{run.folder}@latest", tmp_path).checkpoint.step == 1
    assert runs.load_run(str(run.folder), tmp_path).checkpoint.step == 1


def test_runs_are_listed_oldest_first_without_unfinished_ones(
    make: Callable[[str], runs.RunFolder], tmp_path: Path
) -> None:
    for age, name in enumerate(("young", "old")):
        os.utime(make(name).folder / "config.toml", (1000 - age, 1000 - age))
    make(".partial-x")
    (tmp_path / "not-a-run").mkdir()
    assert [run.name for run in runs.list_runs(tmp_path)] == ["old", "young"]
    assert runs.list_runs(tmp_path / "nowhere") == []


def test_a_loaded_model_is_the_saved_one(
    make: Callable[[str], runs.RunFolder], tmp_path: Path, state_at: Callable[..., State]
) -> None:
    run = make("first")
    states = {step: state_at(step, loss) for step, loss in ((1, 1.0), (2, 2.0))}
    for state in states.values():
        store.save(run.checkpoints, state)
    for reference, step in (("first", 1), ("first@best", 1), ("first@latest", 2), ("first@2", 2)):
        loaded = runs.load_run(reference, tmp_path)
        assert loaded.checkpoint.step == step
        assert not loaded.model.training
        assert torch.equal(loaded.model.embed.weight, states[step].weights["embed.weight"])


def test_a_damaged_checkpoint_is_told_and_another_used(
    make: Callable[[str], runs.RunFolder], tmp_path: Path, state_at: Callable[..., State]
) -> None:
    run = make("first")
    for step in (1, 2):
        store.save(run.checkpoints, state_at(step))
    (run.checkpoints / "step-00000002" / "model.safetensors").write_bytes(b"no")
    loaded = runs.load_run("first@latest", tmp_path)
    assert loaded.checkpoint.step == 1
    assert "step-00000002" in loaded.warnings[0]
    assert "model.safetensors" in loaded.warnings[0]
