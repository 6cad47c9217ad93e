"""fledge plan: a forecast, the choice of a size for a budget, and the check of a forecast against a run."""

import json
import os
import shlex
import shutil
from dataclasses import replace
from typing import Any

import pytest

from fledge.cli.main import main
from fledge.core import threads
from fledge.core.config import read_overrides
from fledge.model.flops import parameter_count
from fledge.planning import budget, loss_forecast, text_entropy
from fledge.planning.backtest import compare
from fledge.recipes import plan
from fledge.recipes.request import resolve_request
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import resolve, validated

from .conftest import Home


@pytest.fixture(autouse=True)
def fast_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests do not check the measured values, so a moment is enough."""
    monkeypatch.setattr(plan, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(budget, "LEAST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(plan, "PLANNING_SECONDS", 0.2)
    monkeypatch.setattr(budget, "START_SECONDS", 0.0)
    monkeypatch.setattr(threads.LoadMeter, "read", lambda _: 0.0)


def planned(home: Home, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert home.do("plan", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def about(home: Home) -> list[str]:
    return [str(home.toml), "--data.corpus", str(home.text)]


def test_plan_reports_time_memory_cost_loss_and_makes_no_run(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(home, capsys, *about(home), "--price", "3.6")
    assert found["steps"] == 12
    assert found["tokens"] == 12 * 4 * 16
    assert found["seconds"] == pytest.approx(sum(found["parts"].values()))
    assert found["cost"] == pytest.approx(found["seconds"] / 1000)
    assert found["step_seconds"] > 0
    assert found["memory"] > 0
    assert found["loss"] is found["bits_per_byte"] is None  # no run like this one was measured
    assert found["corpus_known"]
    assert found["fitted_runs"] == []
    assert not home.runs.exists()
    assert not list(home.folder.glob("tmp*"))


def test_planned_settings_are_those_of_training(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(home, capsys, *about(home), "--train.steps", "5")
    run = home.train("same", "--train.steps", "5")
    assert resolve(str(run / "config.toml")) == validated(found["settings"])
    assert shlex.split(found["command"])[:3] == ["fledge", "train", str(home.toml)]


def test_text_output_is_a_short_table(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("plan", *about(home)) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == [
        *("model", "length", "compute", "machine", "speed", "memory", "time", "loss", "next:"),
    ]
    assert "not forecast: no runs like this were measured" in out


def test_busy_machine_is_named_once(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.LoadMeter, "read", lambda _: 1.5)
    assert home.do("plan", *about(home)) == 0
    assert capsys.readouterr().out.count("other programs keep 1.5 of ") == 1
    assert planned(home, capsys, *about(home))["other_load"] == 1.5


def test_gradient_accumulation_is_planned(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(home, capsys, *about(home), "--train.batch", "64", "--train.micro_batch", "2")
    assert found["batch"] == 64
    assert found["step_seconds"] > 0


def test_budget_is_used_up_and_not_exceeded(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.n_layer", "1", "--train.eval_every", "0", "--train.sample_every", "0"]
    found = planned(home, capsys, *about(home), *words, "--minutes", "30s")
    assert 0 < found["seconds"] <= 30
    assert found["settings"]["model"]["n_embd"] == 16  # the shape given on the command line stays
    more = found["seconds"] + found["step_seconds"]
    assert more > 30 * 0.99


def test_budget_with_automatic_evaluation_interval(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.toml.write_text(home.toml.read_text().replace("eval_every = 4\n", ""))
    words = ["--model.n_layer", "1", "--train.sample_every", "0"]
    found = planned(home, capsys, *about(home), *words, "--minutes", "30s")
    assert 30 * 0.9 < found["seconds"] <= 30


def test_budget_chooses_a_size_and_prints_its_command(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--train.eval_every", "0", "--train.sample_every", "0"]
    found = planned(home, capsys, *about(home), *words, "--minutes", "20s")
    assert 0 < found["seconds"] <= 20
    _, verb, preset, *flags = shlex.split(found["command"])
    settings = resolve(preset, read_overrides(flags))
    proposed = found["settings"]["model"]
    assert (verb, settings.train.steps, settings.train.batch) == ("train", found["steps"], found["batch"])
    assert (settings.model.n_layer, settings.model.n_embd) == (proposed["n_layer"], proposed["n_embd"])
    assert settings.optim.lr == found["settings"]["optim"]["lr"]
    assert found["parameters"] == parameter_count(validated(found["settings"]).model)


def test_budget_keeps_a_given_batch(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.n_layer", "1", "--train.eval_every", "0", "--train.sample_every", "0", "--train.batch", "6"]
    found = planned(home, capsys, *about(home), *words, "--minutes", "10s")
    assert found["batch"] == 6
    assert "--train.batch 6" in found["command"]


def test_budget_below_one_step_is_refused(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("plan", *about(home), "--model.n_layer", "1", "--minutes", "0.0001s") == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert "0.0001 s are not enough" in error
    assert "--minutes" in hint


def test_against_compares_prediction_and_measurement(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(trained, capsys, "--against", "bird")
    assert found["run"] == "bird"
    for name in ("seconds", "step_seconds", "tokens_per_second", "memory"):
        row = found[name]
        assert row["predicted"] > 0
        assert row["measured"] > 0
        assert row["difference_percent"] == pytest.approx(100 * (row["predicted"] / row["measured"] - 1))
    assert found["fitted_runs"] == []  # the run itself is left out
    fitted = compare({"seconds": 100.0, "parts": {"ngrams": 40.0}}, RunFolder(trained.runs / "bird"))["seconds"]
    assert (fitted["predicted"], fitted["measured"]) == (60.0, found["seconds"]["measured"])
    loss = found["bits_per_byte"]
    assert (loss["predicted"], loss["difference_percent"]) == (None, None)
    assert loss["measured"] > 0


def test_loss_is_fitted_to_finished_runs_on_the_same_text(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*about(trained), "--train.steps", "40"]
    found = planned(trained, capsys, *words)
    assert found["fitted_runs"] == ["bird"]
    real = planned(trained, capsys, "--against", "bird")["bits_per_byte"]["measured"]
    assert found["bits_per_byte"]["expected"] == pytest.approx(real, rel=0.05)
    assert found["bits_per_byte"]["low"] < real < found["bits_per_byte"]["high"]
    other = planned(trained, capsys, *words, "--model.mlp", "gelu")
    assert other["fitted_runs"] == []  # another architecture does not count


def test_newest_runs_are_fitted_and_each_length_of_the_text_is_read_once(
    own: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        shutil.copytree(own.runs / "bird", own.runs / f"copy-{number}")
        os.utime(own.runs / f"copy-{number}" / "config.toml", (number, number))
    read: list[int] = []
    compute = text_entropy.compute_entropy
    monkeypatch.setattr(text_entropy, "compute_entropy", lambda data, n: read.append(n) or compute(data, n))
    monkeypatch.setattr(text_entropy, "COMPUTED", {})
    monkeypatch.setattr(loss_forecast, "MAX_OWN_RUNS", 2)
    found = planned(own, capsys, *about(own), "--train.steps", "3")
    assert found["fitted_runs"] == ["bird", "copy-2"]
    assert sorted(read) == sorted(set(read)) != []


def test_against_shows_gaps_where_the_run_has_no_end(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    events = own.runs / "bird" / "events.jsonl"
    events.write_text("".join(line for line in events.read_text().splitlines(True) if '"Ended"' not in line))
    found = planned(own, capsys, "--against", "bird")
    assert found["memory"]["measured"] is None
    assert found["seconds"] == {**found["seconds"], "measured": None, "difference_percent": None}
    assert found["bits_per_byte"]["measured"] is None  # it may not be the final loss
    assert own.do("plan", "--against", "bird") == 0
    assert " - " in capsys.readouterr().out


def test_against_has_no_time_if_a_process_was_killed(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    events = own.runs / "bird" / "events.jsonl"
    started = next(line for line in events.read_text().splitlines(True) if '"Started"' in line)
    events.write_text(started + events.read_text())
    found = planned(own, capsys, "--against", "bird")
    assert found["seconds"]["measured"] is None
    assert found["bits_per_byte"]["measured"] > 0


def test_against_reads_torn_lines_and_odd_line_ends(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    events = own.runs / "bird" / "events.jsonl"
    sample = {"event": "Sample", "step": 40, "prompt": "", "text": "a\u2028b\x85c"}
    events.write_text(
        events.read_text() + json.dumps(sample, ensure_ascii=False) + '\n{"event": "Sta', encoding="utf-8"
    )
    assert planned(own, capsys, "--against", "bird")["seconds"]["measured"] > 0


def test_against_leaves_out_an_incomplete_end_event(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    measured = planned(own, capsys, "--against", "bird")["seconds"]["measured"]
    with (own.runs / "bird" / "events.jsonl").open("a") as events:
        events.write('{"event": "Ended", "step": 40, "reason": "finished"}\n')
    assert planned(own, capsys, "--against", "bird")["seconds"]["measured"] == measured


def test_against_refuses_a_run_without_events(own: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (own.runs / "bird" / "events.jsonl").unlink()
    assert own.do("plan", "--against", "bird") == 2
    assert "events.jsonl' is missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no text and no preset is given"),
        (["demo", "--against", "bird"], "--against"),
        (["--against", "brd"], "brd"),
        (["dmo"], "dmo"),
        (["demo", "--price", "-1"], "--price"),
        (["demo", "--price", "nan"], "--price"),
        (["demo", "--minutes", "soon"], "--minutes"),
        (["demo", "--minutes", ""], "--minutes"),
        (["demo", "--minutes", "30m", "--train.steps", "5"], "--minutes"),
        (["demo", "--train.batch", "10", "--train.micro_batch", "4"], "train.micro_batch = 4"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(
    trained: Home, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(trained.words("plan", *words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("hint: ") == 1


def test_plan_of_a_text_and_steps_has_the_shape_of_training(home, capsys) -> None:
    given = {"train": {"steps": "30"}, "tokenizer": {"vocab_size": "300"}}
    wanted = resolve_request([str(home.text)], given, home.runs).settings
    found = planned(home, capsys, str(home.text), "--train.steps", "30", "--tokenizer.vocab_size", "300")
    settings = validated(found["settings"])
    assert replace(settings.model, vocab_size=None, attention=wanted.model.attention) == wanted.model
    assert (settings.train.batch, settings.train.ngram_steps) == (wanted.train.batch, wanted.train.ngram_steps)
    assert settings.model.n_embd < resolve("text").model.n_embd  # few steps on a small text


def test_plan_for_a_time_keeps_to_it_in_the_run(home, capsys) -> None:
    found = planned(home, capsys, *about(home), "--minutes", "10s")
    train = found["settings"]["train"]
    assert train["minutes"] == pytest.approx(10 / 60)
    assert train.get("step_limit", train["steps"]) >= train["steps"]
    assert "--train.minutes" in found["command"]
    assert home.do("plan", *about(home), "--minutes", "10s", "--train.minutes", "3") == 2
    assert "--minutes sets train.minutes" in capsys.readouterr().err
