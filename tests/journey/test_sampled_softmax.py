"""train.sampled_softmax from the command line: what is trained, resumed, evaluated, and refused."""

import json
import math
import signal
from collections.abc import Callable
from typing import Any

import pytest

from fledge.tracking.sinks.csv import read_metrics
from tiny import remains

SAMPLED = ("--train.sampled_softmax", "8", "--tokenizer.kind", "bpe", "--tokenizer.vocab_size", "300")
LONG = ("--train.steps", "60", "--train.save_every", "20", "--train.eval_every", "20", "--train.sample_every", "30")


def test_model_learns_as_with_the_whole_softmax(home, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_metrics(home.train("whole", *SAMPLED[2:], *LONG))
    sampled = read_metrics(home.train("sampled", *SAMPLED, *LONG))
    before, after = sampled["val/loss"][0], sampled["val/loss"][-1]
    assert before == whole["val/loss"][0]
    assert after < before - 1
    assert after == pytest.approx(whole["val/loss"][-1], abs=0.15)
    assert "train/mfu" not in sampled  # how much is computed depends on the batch
    capsys.readouterr()
    assert home.do("eval", "sampled", "--json") == 0
    assert math.isfinite(json.loads(capsys.readouterr().out)["loss"])


def test_resume_after_sigkill_is_bit_identical(home, ended: Callable[..., Any]) -> None:
    whole = home.train("whole", *SAMPLED, *LONG)
    broken = home.runs / "broken"
    code, said = ended(home.start(home.training("broken", *SAMPLED, *LONG)), broken, 25)
    assert code == -signal.SIGKILL, said
    assert home.do("resume", "broken") == 0
    assert remains(broken) == remains(whole)


def test_impossible_values_are_refused(home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do(*home.training("bird", "--train.sampled_softmax", "-1")) == 2
    assert "train.sampled_softmax cannot be -1" in capsys.readouterr().err
    assert not (home.runs / "bird").exists()
