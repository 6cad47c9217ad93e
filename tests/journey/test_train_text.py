"""fledge train TEXT: size and length by time, the prompt from the text, and what is said before it begins."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fledge
from fledge.cli.main import main
from fledge.core.config import merge, read_overrides, read_toml
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.planning import budget
from fledge.recipes import plan, request
from fledge.settings.words import DEFAULT_MINUTES
from tiny import write_text

SMALL = ["--model.n_layer", "1", "--model.n_head", "2", "--model.n_embd", "32", "--model.context", "16"]
SMALL += ["--tokenizer.vocab_size", "300", "--model.bigram_rows", "512", "--track.sample_tokens", "8"]
UNTIMED = {"minutes": None, "step_limit": None}  # exactly so many steps


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(budget, "LEAST_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(plan, "PLANNING_SECONDS", 0.2)
    monkeypatch.setattr(request, "plan", plan_six_steps)
    write_text(tmp_path / "notes")
    write_text(tmp_path / "letters", seed=1)
    return tmp_path


def plan_six_steps(*args: Any, **options: Any) -> plan.PlanResult:
    """The real plan for ten minutes, of which only six steps are trained."""
    planned = plan.plan(*args, **{**options, "seconds": 600, "begun": None})
    return replace(planned, overrides=merge(planned.overrides, {"train": {"steps": 6, **UNTIMED}}))


def config(run: str) -> dict[str, Any]:
    return read_toml(Path("runs") / run / "config.toml")


def test_text_alone_is_trained_for_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "notes/", "--minutes", "10", *SMALL, "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    lines = {line.split()[0]: line for line in said.err.splitlines() if line.strip()}
    assert lines["text"].startswith("text      read 4 files (4 txt), 7.")
    assert "held out" in lines["text"]
    assert "1 block, width 32" in lines["model"]
    assert f"{result['step']} step" in lines["training"].replace(",", "")
    used = config("notes")
    assert used["train"]["steps"] == result["step"] == 6
    assert used["data"]["corpus"] == "notes/"
    assert used["track"]["prompt"]
    assert used["track"]["prompt"] in "".join(path.read_text() for path in Path("notes").iterdir())


def test_several_texts_make_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "notes", "letters/*.txt", "--train.steps", "2", *SMALL]) == 0
    assert config("notes")["data"]["corpus"] == ["notes", "letters/*.txt"]
    assert "training  2 steps of 32 × 16 tokens\n" in capsys.readouterr().err  # the length was given: no forecast
    assert main(["resume", "notes", "--train.steps", "3", "--allow-changes"]) == 0


def test_generate_begins_with_the_prompt_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "notes", "demo", "--train.steps", "2", *SMALL]) == 0
    capsys.readouterr()
    assert main(["generate", "demo", "--tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith(config("demo")["track"]["prompt"])


def test_run_that_another_starts_from_gives_size_and_tokenizer() -> None:
    assert main(["train", "notes", "--train.steps", "2", *SMALL]) == 0
    assert main(["train", "letters", "--init", "notes", "--minutes", "10"]) == 0
    first, second = config("notes"), config("letters")
    assert second["model"] == first["model"]
    assert second["train"]["batch"] == first["train"]["batch"]
    assert second["data"]["corpus"] == "letters"
    assert second["train"]["steps"] == 6


def test_length_is_five_minutes_or_what_is_given() -> None:
    runs = Path("runs")
    assert request.resolve_request("notes", {}, runs).minutes == DEFAULT_MINUTES
    assert request.resolve_request([], {"data": {"corpus": "notes"}}, runs).minutes == DEFAULT_MINUTES
    assert request.resolve_request("demo", {}, runs).minutes is None
    assert request.resolve_request(["notes", "demo"], {}, runs).minutes is None
    assert request.resolve_request("notes", {"train": {"steps": 5}}, runs).minutes is None
    by_epochs = request.resolve_request("notes", {"train": {"epochs": 1}}, runs)
    assert (by_epochs.minutes, by_epochs.settings.train.epochs) == (None, 1)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "no text and no preset is given", "fledge train my-notes/"),
        (["note"], "there is no preset, file or folder 'note'", "did you mean 'notes'?"),
        (["notes", "--minutes", "2", "--train.steps", "3"], "--minutes sets train.steps", "leave one of them out"),
        (["notes", "--minutes", "-1"], "--minutes cannot be", "a number of minutes"),
        (["notes", "--init", "none"], "no run 'none'", "train one first"),
    ],
)
def test_refusals_say_what_can_be_given(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str, hint: str
) -> None:
    assert main(["train", *words]) == 2
    error, advice = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert message in error
    assert hint in advice
    assert not Path("runs").exists()


def test_time_that_is_too_short_still_gives_a_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "plan", plan.plan)
    assert main(["train", "notes", "--minutes", "0.001", *SMALL[8:], "--json"]) == 0
    said = capsys.readouterr()
    result, train = json.loads(said.out), config("notes")["train"]
    assert result["step"] < train["steps"]
    assert result["val_loss"] > 0
    assert train["minutes"] == 0.001
    assert said.err.count("the time is up: step") == 1
    assert main(["generate", "notes", "--tokens", "3"]) == 0


@pytest.mark.parametrize("minutes", [math.nan, math.inf, -1, 0, 1e9])
def test_time_that_no_run_can_have_is_refused_from_python_too(minutes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "plan", plan.plan)
    with pytest.raises(UserError, match=f"--minutes cannot be {re.escape(f'{minutes:g}')}"):
        fledge.train("notes", minutes=minutes)


def test_existing_run_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("runs/taken").mkdir(parents=True)
    monkeypatch.setattr(request, "plan", None)
    assert main(["train", "notes", "--run", "taken"]) == 2
    assert "a run named 'taken' already exists" in capsys.readouterr().err
    assert not Path("cache").exists()


def test_print_config_prints_what_would_be_trained(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "notes", "--minutes", "10", *SMALL, "--print-config", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["train"]["steps"] == 6
    assert not Path("runs").exists()


@pytest.mark.parametrize("init", [None, "first"])
def test_batch_can_be_shared_by_the_processes(capsys: pytest.CaptureFixture[str], init: str | None) -> None:
    assert main(["train", "notes", "--train.steps", "1", *SMALL, "--run", "first"]) == 0
    overrides = {} if init else read_overrides(SMALL)
    asked = request.resolve_request("notes", overrides, Path("runs"), init)
    assert asked.settings.train.batch == 32
    fitted = request.fit_to_time(asked, 10, Path("runs"), World(size=3))
    assert fitted.settings.train.batch == 33
    assert capsys.readouterr().err.count("one process is measured; 3 may need less time") == 1
    given = replace(asked, overrides={"train": {"batch": 32}})
    with pytest.raises(UserError, match="32 is not divisible by 3 processes"):
        request.fit_to_time(given, 10, Path("runs"), World(size=3))


def test_only_the_main_process_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank takes the settings that the main process has chosen, and measures nothing."""

    class Rank(World):
        def broadcast_from_main(self, _: object) -> str:
            return json.dumps({"overrides": {"train": {"steps": 77}}, "expected": "about 3 s"})

    monkeypatch.setattr(budget, "measure_costs", None)
    asked = request.resolve_request("notes", {}, Path("runs"))
    fitted = request.fit_to_time(asked, None, Path("runs"), Rank(rank=1, size=2))
    assert (fitted.settings.train.steps, fitted.expected) == (77, "about 3 s")
