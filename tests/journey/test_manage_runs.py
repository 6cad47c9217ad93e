"""fledge runs delete and rename: asked first, never half, never a run that is being trained."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from fledge.cli.main import main
from fledge.runs import manage_runs
from fledge.runs.run_folder import RunFolder, open_run

from .conftest import Home


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def runs(home: Home) -> set[str]:
    return {path.name for path in home.runs.iterdir()}


def copy(home: Home, name: str) -> RunFolder:
    shutil.copytree(home.runs / "bird", home.runs / name)
    return RunFolder(home.runs / name)


def test_run_is_deleted_with_yes(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    copy(own, "duck")
    copy(own, "swan")
    assert own.do("runs", "delete", "duck", "swan", "--yes") == 0
    assert runs(own) == {"bird"}
    assert capsys.readouterr().out.splitlines()[1].startswith("  duck: ")


def test_json_names_what_was_deleted(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.do("runs", "delete", str(copy(own, "duck").folder), "--yes", "--json") == 0
    (deleted,) = json.loads(capsys.readouterr().out)["deleted"]
    assert deleted["name"] == "duck"
    assert deleted["bytes"] > 1000


@pytest.mark.parametrize(("answer", "left"), [("y\n", set()), ("n\n", {"bird"}), ("\n", {"bird"})])
def test_terminal_is_asked(own: Home, monkeypatch: pytest.MonkeyPatch, answer: str, left: set[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert own.do("runs", "delete", "bird") == (2 if left else 0)
    assert runs(own) == left


def test_without_a_terminal_yes_is_needed(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.do("runs", "delete", "bird") == 2
    assert "hint: add --yes" in capsys.readouterr().err
    assert runs(own) == {"bird"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("bird@40", "names a checkpoint"), ("brid", "did you mean 'bird'?"), (".", "no run '.'"), ("", "not a path")],
)
def test_what_is_not_a_run_is_not_deleted(own: Home, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    assert own.do("runs", "delete", "bird", name, "--yes") == 2
    assert said in capsys.readouterr().err
    assert runs(own) == {"bird"}


@pytest.mark.parametrize("words", [("delete", "bird", "duck", "--yes"), ("rename", "duck", "swan")], ids=str)
def test_run_that_is_being_trained_is_refused(
    own: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with copy(own, "duck").lock():
        assert own.do("runs", *words) == 2
    assert "'duck' is being trained" in capsys.readouterr().err
    assert runs(own) == {"bird", "duck"}


def test_kill_while_deleting_leaves_no_half_run(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(own, "duck")

    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manage_runs, "remove_path", lambda folder: killed(folder) if folder.exists() else None)
        assert own.do("runs", "delete", "duck", "--yes") == 130
    assert runs(own) == {"bird", ".deleted-duck"}
    copy(own, "swan")
    assert own.do("runs", "delete", "swan", "--yes") == 0
    assert runs(own) == {"bird"}


def test_renamed_run_is_complete_and_runs_from_it_know_its_name(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.do("train", "--init", "bird", "--run", "chick", "--train.steps", "2") == 0
    assert own.do("runs", "rename", "bird", "duck") == 0
    assert "'bird' is now 'duck'" in capsys.readouterr().out
    assert runs(own) == {"duck", "chick"}
    assert open_run("duck", own.runs).checkpoint().step == 40
    assert open_run("chick", own.runs).metadata()["init"].startswith("duck@")
    assert own.do("generate", "duck", "--tokens", "3") == 0


@pytest.mark.parametrize(("new", "said"), [("bird", "already exists"), ("a/b", "cannot be named"), (".b", "cannot be")])
def test_wrong_new_name_is_refused(own: Home, capsys: pytest.CaptureFixture[str], new: str, said: str) -> None:
    copy(own, "duck")
    assert own.do("runs", "rename", "duck", new) == 2
    assert said in capsys.readouterr().err
    assert runs(own) == {"bird", "duck"}


def test_sweep_is_deleted_whole_and_its_trials_keep_their_names(
    own: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(own.runs / "bird", own.runs / "rates" / "trial-0001")
    (own.runs / "rates" / "sweep.journal").write_text("")
    assert own.do("runs", "rename", "rates/trial-0001", "best") == 2
    assert "a trial of the sweep 'rates'" in capsys.readouterr().err
    assert main(["runs", "delete", "rates", "--yes", "--runs", str(own.runs)]) == 0
    assert "rates: " in capsys.readouterr().out
    assert runs(own) == {"bird"}
