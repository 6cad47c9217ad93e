"""A run that is evaluated on a sample ends with the whole split, for the last weights and for the best checkpoint."""

import json
import os
import signal

import pytest

from fledge.checkpoint.state import Tensors
from fledge.evaluation import schedule
from fledge.evaluation.loss import LossResult
from fledge.evaluation.validation import Validation
from fledge.planning.loss_forecast import final_bits_per_byte
from fledge.runs.advice import advise
from fledge.runs.run_folder import open_run
from fledge.tracking.sinks.csv import read_metrics

# The sample is 160 of about 2,100 tokens. The learning rate rises to the last step, so step 20 is the best.
SAMPLED = (
    *("--train.steps", "30", "--train.batch", "8", "--train.eval_every", "10", "--train.eval_tokens", "160"),
    *("--data.val", "0.3", "--optim.schedule", "constant", "--train.loss_spike", "0"),
)
OPTIONS = (*SAMPLED, "--optim.lr", "0.3", "--optim.warmup_steps", "29")


def json_of(home, capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[no-untyped-def,type-arg]
    capsys.readouterr()
    assert home.do(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_run_ends_with_the_whole_split_for_last_and_best(home, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert home.do("train", str(home.toml), "--run", "bird", "--data.corpus", str(home.text), *OPTIONS, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    metrics, run = read_metrics(home.runs / "bird"), open_run("bird", home.runs)
    assert len(metrics.measured("val/loss")) == len(metrics.measured("val/loss_margin")) == 4
    assert [0 < fraction < 0.1 for fraction in metrics.measured("val/fraction")] == [True] * 4
    assert [len(metrics.measured(name)) for name in ("val_whole/loss", "val_best/loss")] == [1, 1]
    whole = json_of(home, capsys, "eval", "bird@latest")
    assert (whole["step"], whole["loss"]) == (30, metrics["val_whole/loss"][-1])
    best = json_of(home, capsys, "eval", "bird")
    assert (best["step"], best["loss"]) == (metrics["val_best/step"][-1], metrics["val_best/loss"][-1])
    assert best["step"] == result["best_step"] == open_run("bird@best", home.runs).checkpoint().step
    assert (result["val_loss"], result["whole_split"]) == (best["loss"], True)
    assert result["bits_per_byte"] == best["bits_per_byte"]
    assert run.config()["train"]["eval_tokens"] == 160
    row = json_of(home, capsys, "runs")[0]
    assert (row["best_step"], row["val_loss"], row["whole_split"]) == (best["step"], best["loss"], True)


def test_one_window_is_never_taken_for_the_whole_split(
    home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no interval, as the whole split has none."""
    monkeypatch.setattr(schedule, "WHOLE_SPLIT_SHARE", 0)
    home.train("bird", *OPTIONS, "--train.steps", "4", "--train.eval_tokens", "16")
    assert "a sample of the validation split" in capsys.readouterr().out
    assert json_of(home, capsys, "runs")[0]["whole_split"] is False
    assert not any("split" in each.text for each in advise(open_run("bird", home.runs)))
    run = open_run("bird", home.runs)
    assert final_bits_per_byte(run, read_metrics(run.folder)) is None


def test_last_step_is_best_if_the_whole_split_says_so(home) -> None:
    run = home.train("bird", *SAMPLED, "--optim.lr", "0.03")
    metrics = read_metrics(run)
    assert min(metrics.measured("val/loss")[:-1]) < metrics.measured("val/loss")[-1], "the sample prefers another step"
    assert metrics["val_best/step"][-1] == open_run("bird@best", home.runs).checkpoint().step == 30
    assert metrics["val_best/loss"][-1] == metrics["val_whole/loss"][-1]


def test_generate_says_which_checkpoint_it_uses(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird", *OPTIONS)
    best = open_run("bird@best", home.runs).checkpoint().step
    assert best < 30, "the test needs a run whose last step is not its best"
    capsys.readouterr()
    assert home.do("generate", "bird", "--tokens", "3") == 0
    assert f"using step {best} of 'bird'" in capsys.readouterr().err
    assert home.do("generate", "bird@latest", "--tokens", "3") == 0
    assert "using step" not in capsys.readouterr().err


@pytest.mark.parametrize("calls", [1, 2], ids=["last", "best"])
def test_stop_during_the_whole_split_is_repeated_after_resuming(
    home, outcome_of, unbroken, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    evaluate, seen = Validation.evaluate_whole, []

    def stopped(self: Validation, weights: Tensors | None = None) -> LossResult:
        seen.append(weights)
        if len(seen) == calls:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, weights)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "evaluate_whole", stopped)
        assert home.do("train", str(home.toml), "--run", "bird", "--data.corpus", str(home.text), *OPTIONS) == 130
    assert len(seen) == calls
    assert home.do("resume", "bird") == 0
    assert outcome_of(home.runs / "bird") == unbroken(*OPTIONS)
