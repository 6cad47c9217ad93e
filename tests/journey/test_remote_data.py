"""Runs on a dataset at s3://, through the cache."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def far(home, bucket: str) -> str:
    """The text of `home`, prepared at a URL."""
    url = f"{bucket}/{home.folder.name}"
    assert home.do("prepare", str(home.text), "--out", url, "--tokenizer.kind", "char", "--data.val", "0.1") == 0
    return url


def test_run_on_s3_data_equals_local_and_resumes_without_cache(
    home, far: str, outcome_of: Callable[[Path], dict[str, Any]]
) -> None:
    near = outcome_of(home.train("near"))
    run = home.train("far", "--data.path", far)
    assert outcome_of(run) == near
    assert tomllib.loads((run / "config.toml").read_text())["data"]["path"] == far
    shutil.rmtree(home.folder / "cache")
    assert home.do("resume", "far@9") == 0
    assert outcome_of(run) == near


def test_eval_on_s3_data_gives_the_same_loss(home, far: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = home.train("bird")
    measured = json.loads((max((run / "checkpoints").glob("step-*")) / "state.json").read_text())["val_loss"]
    capsys.readouterr()
    assert home.do("eval", "bird@latest", "--data", far, "--json") == 0
    assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(measured)


def test_resume_on_changed_s3_data_is_refused(home, far: str, capsys: pytest.CaptureFixture[str]) -> None:
    import s3fs

    home.train("bird", "--data.path", far)
    s3fs.S3FileSystem().rm(far, recursive=True)
    (home.text / "0.txt").write_text("the quick brown fox jumps over a lazy dog and then it sleeps until.\n" * 40)
    assert home.do("prepare", str(home.text), "--out", far, "--tokenizer.kind", "char", "--data.val", "0.1") == 0
    capsys.readouterr()
    assert home.do("resume", "bird@9") == 2
    assert "is not the one that 'bird' was trained on" in capsys.readouterr().err
