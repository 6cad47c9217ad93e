"""`fledge plot` and `fledge runs`."""

import json
from pathlib import Path

import pytest

from tiny import keep_columns


def test_plot_draws_a_figure_for_each_metric(own, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.do("plot", "bird", "--json") == 0
    written = [Path(path) for path in json.loads(capsys.readouterr().out)["figures"]]
    names = {
        "loss",
        "lr",
        "grad_norm",
        "step_seconds",
        "tokens_per_second",
        "perplexity",
        "bits_per_byte",
        "accuracy",
        "mfu",
        "time",
        "time_beside",
        "all",
    }
    assert {path.stem for path in written} == names
    for path in written:
        assert path.parent == own.runs / "bird" / "plots"
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5000


def test_plot_of_several_runs_writes_to_out(own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_columns(own.runs / "bird", "step", "train/loss", "val/loss", "train/lr")
    assert own.do("plot", "bird", str(own.runs / "bird"), "--out", str(tmp_path / "compared")) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(list((tmp_path / "compared").glob("*.png"))) == 3


def test_plot_options_name_formats_axes_and_smoothing(own, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_columns(own.runs / "bird", "step", "train/loss", "val/loss")
    options = ["--format", "svg,pdf", "--x", "time", "--log", "y", "--smooth", "0.9", "--out", str(tmp_path / "out")]
    assert own.do("plot", "bird", *options) == 0
    assert "training" in (tmp_path / "out" / "loss.svg").read_text()
    assert len(capsys.readouterr().out.splitlines()) == len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--format", "jpg", "there is no format 'jpg'"),
        ("--format", "png,", "there is no format ''"),
        ("--smooth", "1", "--smooth cannot be 1"),
        ("--smooth", "nan", "--smooth cannot be nan"),
        ("--x", "hours", "invalid choice"),
    ],
)
def test_plot_refuses_wrong_options(trained, capsys, option: str, value: str, message: str) -> None:
    assert trained.do("plot", "bird", option, value) == 2
    assert message in capsys.readouterr().err


def test_runs_lists_the_trained_runs(trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("runs", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    state = json.loads((trained.runs / "bird" / "checkpoints" / "step-00000040" / "state.json").read_text())
    assert (row["run"], row["step"], row["steps"]) == ("bird", 40, 40)
    assert row["val_loss"] == state["val_loss"]
    assert (row["state"], row["saved_step"], row["best_step"], row["whole_split"]) == ("finished", 40, 40, True)
    assert row["bits_per_byte"] == pytest.approx(row["val_loss"] * 1.4427, rel=0.05)
    assert row["text"].endswith("text")
    assert row["checkpoints"] == [20, 40]
    assert trained.do("runs") == 0
    assert "bird" in capsys.readouterr().out


def test_runs_without_any_run_suggests_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fledge.cli.main import main

    assert main(["runs", "--runs", str(tmp_path)]) == 0
    assert "fledge demo" in capsys.readouterr().out
    assert main(["runs", "--runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_runs_lists_runs_beside_a_damaged_one(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.runs / "bad").mkdir()
    (own.runs / "bad" / "config.toml").write_text("[model]\nn_layer = 'x'\n")
    assert own.do("runs", "--json") == 0
    assert "bird" in {row["run"] for row in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize("steps", ["3", "20"])
def test_profile_writes_trace_and_operators(home, capsys, steps: str) -> None:
    run = home.train("bird", "--train.steps", steps, "--profile")
    trace = json.loads((run / "profile" / "trace.json").read_text())
    assert any("mm" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::" in (run / "profile" / "operators.txt").read_text()
    if steps == "20":
        assert "profile of 3 steps" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plot", "report", "watch"])
def test_commands_for_a_whole_run_refuse_a_checkpoint(trained, capsys, command: str) -> None:
    assert trained.do(command, "bird@20") == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error == "error: 'bird@20' names a checkpoint"
    assert hint.startswith("hint: name the run: ")
