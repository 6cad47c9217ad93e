"""train.context from the command line: trained on short sequences, evaluated, resumed, and continued by others."""

import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated
from tiny import remains

SHORTER = ("--model.context", "24", "--model.window", "8", "--train.context", "8")


def test_model_is_evaluated_and_used_in_its_own_context(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird", *SHORTER)
    capsys.readouterr()
    assert home.do("eval", "bird", "--json") == 0
    assert json.loads(capsys.readouterr().out)["context"] == 24
    assert home.do("eject", "bird", "--out", str(home.folder / "bird.py")) == 0
    assert "TRAIN_CONTEXT = 8" in (home.folder / "bird.py").read_text()


def test_resume_after_sigkill_is_bit_identical(home, ended: Callable[..., Any]) -> None:
    long = (*SHORTER, "--train.steps", "60", "--train.save_every", "20", "--train.eval_every", "20")
    whole = home.train("whole", *long)
    broken = home.runs / "broken"
    code, said = ended(home.start(home.training("broken", *long)), broken, 25)
    assert code == -signal.SIGKILL, said
    assert home.do("resume", "broken") == 0
    assert remains(broken) == remains(whole)


def test_run_from_its_weights_keeps_the_context_of_training(home) -> None:
    home.train("bird", *SHORTER)
    assert (
        home.do("train", "--data.corpus", str(home.text), "--train.steps", "2", "--init", "bird", "--run", "next") == 0
    )
    assert home.do("train", "text", str(home.text), "--train.steps", "2", "--init", "bird", "--run", "preset") == 0
    for name in ("next", "preset"):
        settings = validated(RunFolder(home.runs / name).config())
        assert (settings.model.context, settings.train.context) == (24, 8)
