"""Resuming with changed settings or files, and `resume --verify`."""

import json
import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from fledge.checkpoint import store
from fledge.core.distributed import World
from fledge.insight import verify_checkpoint
from fledge.recipes.resume import resume
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.checkpointer import Checkpointer
from fledge.training.trainer import Trainer

STOPPED = ("--train.steps", "12", "--train.keep_last", "9")


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def edit(run: Path, before: str, after: str) -> None:
    text = (run / "config.toml").read_text()
    assert re.search(before, text, re.M)
    (run / "config.toml").write_text(re.sub(before, after, text, flags=re.M))


def test_finished_run_is_extended_with_allow_changes(home, capsys) -> None:
    run = home.train("bird", *STOPPED)
    capsys.readouterr()
    assert home.do("resume", "bird", "--train.steps", "16") == 2
    lines = said(capsys)
    assert "  train.steps: 12 → 16" in lines
    assert lines[-2:] == ["error: 'bird' was trained with other settings: train.steps",
                          "hint: if the change is intended, add --allow-changes"]  # fmt: skip
    assert validated(RunFolder(run).config()).train.steps == 12
    assert home.do("resume", "bird", "--train.steps", "16", "--allow-changes") == 0
    assert [int(step) for step in read_metrics(run)["step"]][-1] == 16
    assert validated(RunFolder(run).config()).train.steps == 16
    assert RunFolder(run).changed_files() == []
    assert home.do("generate", "bird", "--tokens", "2") == 0


def test_edited_config_counts_as_a_change(home, capsys) -> None:
    run = home.train("bird", *STOPPED)
    edit(run, r"^lr = .*$", "lr = 0.0123")
    assert home.do("resume", "bird@6") == 2
    assert any(line.startswith("  optim.lr: ") and line.endswith(" → 0.0123") for line in said(capsys))
    assert home.do("resume", "bird@6", "--allow-changes") == 0
    assert validated(RunFolder(run).config()).optim.lr == 0.0123
    assert RunFolder(run).changed_files() == []


@pytest.mark.parametrize(
    "change",
    [("--model.n_layer", "2"), ("--model.window", "4"), ("--train.batch", "8"), ("--train.seed", "5"),
     ("--train.ngram_steps", "5"),
     ("--data.stride", "3"), ("--tokenizer.kind", "bpe")],
)  # fmt: skip
def test_fixed_settings_cannot_be_changed(home, capsys, change) -> None:
    run = home.train("bird", *STOPPED)
    before = {path.name: path.read_bytes() for path in run.glob("*") if path.is_file()}
    assert home.do("resume", "bird@6", *change, "--allow-changes") == 2
    error, hint = said(capsys)[-2:]
    assert change[0].removeprefix("--") in error
    assert f"--init {run}" in hint
    assert {path.name: path.read_bytes() for path in run.glob("*") if path.is_file()} == before
    assert len(store.complete_checkpoints(run / "checkpoints")) > 1


def test_repeated_settings_are_no_change(home) -> None:
    home.train("bird", *STOPPED)
    assert home.do("resume", "bird@6", "--train.steps", "12", "--optim.betas", "[0.9, 0.95]") == 0


def test_damaged_config_without_checkpoint_is_refused(home, capsys) -> None:
    run = home.train("bird", *STOPPED)
    store.remove_after(run / "checkpoints", -1)
    edit(run, r"^lr = .*$", "lr = 0.0123")
    assert home.do("resume", "bird") == 2
    assert "config.toml" in said(capsys)[-2]
    assert home.do("resume", "bird", "--allow-changes") == 0


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_accepted_change_is_kept_after_a_kill(home, monkeypatch) -> None:
    run = home.train("bird", *STOPPED)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupted)
        assert home.do("resume", "bird", "--train.steps", "16", "--allow-changes") == 130
    assert home.do("resume", "bird") == 0
    assert store.find_checkpoint(run / "checkpoints")[0].step == 16


def test_accepted_change_does_not_invalidate_checkpoints(home, monkeypatch) -> None:
    home.train("bird", *STOPPED)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", interrupted)
        changed = ("--train.steps", "16", "--train.micro_batch", "2")
        assert home.do("resume", "bird", *changed, "--allow-changes") == 130
    assert home.do("resume", "bird", "--verify") == 0


def test_refused_resume_changes_nothing(home) -> None:
    run = home.train("bird", *STOPPED)
    before = files_of(run)
    assert home.do("resume", "bird@9", "--train.steps", "5", "--allow-changes") == 2
    assert files_of(run) == before


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_damaged_checkpoints_are_not_deleted(home, capsys, name: str) -> None:
    run = home.train("bird", *STOPPED)
    for file in run.glob(f"checkpoints/*/{name}"):
        file.write_bytes(b"")
    before = files_of(run)
    assert home.do("resume", "bird") == 2
    assert f"step-00000012/{name} is damaged" in said(capsys)[-2]
    assert files_of(run) == before


def test_first_checkpoint_of_a_run_with_init_is_verified(home, capsys) -> None:
    home.train("bird", *STOPPED)
    home.train("child", "--init", "bird", "--train.keep_last", "9")
    capsys.readouterr()
    assert home.do("resume", "child@0", "--verify") == 0
    assert capsys.readouterr().out.count("…  identical") == 4


def test_run_with_init_does_not_restart_without_checkpoints(home, capsys) -> None:
    home.train("bird", *STOPPED)
    run = home.train("child", "--init", "bird", "--train.steps", "3")
    store.remove_after(run / "checkpoints", -1)
    assert home.do("resume", "child") == 2
    error, hint = said(capsys)[-2:]
    assert error == "error: 'child' has no checkpoints left"
    assert hint.endswith(f"--init {run.parent / 'bird'}@12")


def test_run_with_fitted_weights_does_not_restart_without_checkpoints(home, capsys) -> None:
    """From the beginning would be without the fit to n-gram counts."""
    run = home.train("bird", "--train.ngram_steps", "2", "--train.steps", "3")
    store.remove_after(run / "checkpoints", -1)
    assert home.do("resume", "bird") == 2
    error, hint = said(capsys)[-2:]
    assert error == "error: 'bird' has no checkpoints left"
    assert home.do("train", *hint.partition("fledge train ")[2].split(), "--run", "again") == 0


def test_epochs_cannot_be_changed_on_resume(home, capsys) -> None:
    home.train("bird", *STOPPED)
    assert home.do("resume", "bird@6", "--train.epochs", "3", "--allow-changes") == 2
    assert "--train.steps" in said(capsys)[-1]


@pytest.mark.parametrize(
    "more", [(), ("--train.dtype", "float16"), ("--optim.optimizer", "muon"), ("--model.dropout", "0.2")]
)
def test_verify_finds_a_complete_checkpoint(home, capsys, more: tuple[str, ...]) -> None:
    run = home.train("bird", *STOPPED, *more)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert home.do("resume", "bird@6", "--verify", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    folder = run / "checkpoints" / "step-00000006"
    assert found["files"] == {name.name: store.sha256(name) for name in sorted(folder.iterdir())}
    weights = sum(tensor.numel() for tensor in store.load_weights(store.verify(folder)).values())
    assert found["numbers"] >= 2 * weights
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() if path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }


def test_verify_names_a_checkpoint_that_differs(home, capsys, monkeypatch) -> None:
    home.train("bird", *STOPPED)
    usual = verify_checkpoint.store.load

    def forgetful(*args):
        state = usual(*args)
        state.weights["embed.weight"] = state.weights["embed.weight"] + torch.finfo(torch.float32).eps
        return state

    monkeypatch.setattr(verify_checkpoint.store, "load", forgetful)
    assert home.do("resume", "bird", "--verify") == 2
    assert "model: embed.weight" in said(capsys)[-2]


def test_verify_prints_that_all_is_identical(home, capsys) -> None:
    home.train("bird", *STOPPED)
    assert home.do("resume", "bird", "--verify") == 0
    assert "are bit-identical" in capsys.readouterr().out


def test_rewind_reports_what_it_removes(home, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    run = home.train("bird", *STOPPED, "--train.save_every", "3")
    edit(run, r"^lr = .*$", "lr = 0.0123")

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def no_room(*_: object) -> None:
        raise MemoryError

    before = contents()
    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "load", no_room)
        assert home.do("resume", "bird@6", "--allow-changes") == 2
    assert contents() == before
    capsys.readouterr()
    assert home.do("resume", "bird@6", "--allow-changes") == 0
    assert "resuming 'bird' after step 6; later checkpoints are removed: 8, 9, 12" in said(capsys)


class Again(World):
    """A process group whose flags outlive its processes, as torchrun's do."""

    notes: ClassVar[set[str]] = set()

    def set_flag(self, word: str) -> None:
        self.notes.add(word)

    def has_flag(self, word: str) -> bool:
        return word in self.notes


def test_restarted_processes_do_not_rewind_again(home) -> None:
    run = home.train("bird", *STOPPED)
    assert resume("bird@4", runs=home.runs, world=Again()).step == 12
    store.remove_after(run / "checkpoints", 8)
    before = (run / "events.jsonl").read_text().count('"Started"')
    assert resume("bird@4", runs=home.runs, world=Again()).step == 12
    (*_, last) = (json.loads(line) for line in (run / "events.jsonl").read_text().splitlines() if '"Started"' in line)
    assert (last["step"], before) == (8, 2)
