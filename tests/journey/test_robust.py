"""Closed streams, unusual terminals, concurrent processes, odd files and numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fledge.checkpoint import store
from fledge.cli.main import main
from fledge.runs.run_folder import RunFolder


def fledge(*words: str, **more: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "fledge", *words], capture_output=True, text=True, **more)


def test_closed_stderr_does_not_end_training(home) -> None:
    words = [sys.executable, "-m", "fledge", *home.training("bird")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    process.stdout.close()
    process.wait()
    assert store.find_checkpoint(home.runs / "bird" / "checkpoints")[0].step == 12


def test_two_processes_cannot_train_one_run(home, capsys: pytest.CaptureFixture[str]) -> None:
    run = home.train("bird")
    with RunFolder(run).lock():
        assert home.do("resume", "bird@9") == 2
    assert "another process" in capsys.readouterr().err
    assert home.do("resume", "bird@9") == 0


def test_closed_stdout_gives_no_traceback(home) -> None:
    done = subprocess.run(  # noqa: S602
        f"{sys.executable} -m fledge runs --runs {home.runs} >&-", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr


def test_ascii_terminal_replaces_other_letters() -> None:
    done = fledge("--help", env={**os.environ, "PYTHONIOENCODING": "latin1"})
    assert done.returncode == 0
    assert "usage: fledge" in done.stdout


def test_dataset_prepared_twice_is_the_same(home) -> None:
    home.train("bird")
    for folder in (home.folder / "cache" / "datasets").iterdir():
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        folder.rmdir()
    for text in home.text.iterdir():
        os.utime(text, (1, 1))
    assert home.do("train", str(home.toml), "--run", "other", "--data.corpus", str(home.text)) == 0
    facts = [RunFolder(home.runs / name).metadata()["dataset_sha256"] for name in ("bird", "other")]
    assert facts[0] == facts[1]


def test_dangling_links_and_hidden_files_are_ignored(home) -> None:
    (home.text / "broken.txt").symlink_to("/nowhere")
    home.train("bird")
    (home.text / ".hidden").write_text("not read")
    home.train("other")
    assert len(list((home.folder / "cache" / "datasets").iterdir())) == 1


def test_default_run_name_comes_from_the_file(home) -> None:
    odd = home.folder / "x@1 y.toml"
    odd.write_text(home.toml.read_text())
    assert home.do("train", str(odd), "--data.corpus", str(home.text)) == 0
    assert home.do("generate", "x-1-y", "--tokens", "3") == 0


def test_small_text_trains_with_the_demo_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "notes.txt").write_text("The owl flew home over the quiet field.\n" * 200)
    tiny = ("--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "2", "--model.context", "16")
    words = ["train", "demo", "--data.corpus", str(tmp_path / "notes.txt"), "--runs", str(tmp_path / "runs"), *tiny]
    assert main([*words, "--run", "owl", "--train.steps", "3", "--train.compile", "false"]) == 0
    assert main(["eval", "owl", "--runs", str(tmp_path / "runs")]) == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("train.batch", "1000000000000"),
        ("model.n_embd", "2000000000"),
        ("data.stride", "99999999999999999999"),
        ("model.n_layer", "99999999999999999999999"),
        ("train.epochs", "1e30"),
    ],
)
def test_absurdly_large_numbers_are_refused(home, capsys: pytest.CaptureFixture[str], setting: str, value: str) -> None:
    assert main(home.training("huge", f"--{setting}", value)) == 2
    assert "error: " in capsys.readouterr().err
    assert not (home.runs / "huge").exists()
