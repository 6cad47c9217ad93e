"""The flight recorder prints the very text that a step learned from."""

import json
from dataclasses import replace
from typing import Any

import pytest

from fledge.batches.loader import Loader
from fledge.batches.sampler import WindowSampler
from fledge.cli.main import main
from fledge.core.device import Machine
from fledge.datasets.shards import open_dataset
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated
from fledge.training.step import TrainStep


def shown(home, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["data", "show", "bird", *words, "--runs", str(home.runs), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["samples"]


def learned(home, step: int) -> list[str]:
    """What the loader gives to a step, as text."""
    run = RunFolder(home.runs / "bird")
    settings = validated(run.config())
    dataset = open_dataset(home.folder / settings.data.path)
    split, context = dataset.split("train"), settings.model.context
    order = WindowSampler(len(split), context, settings.data.stride or context, settings.train.seed)
    loader = Loader(split, order, settings.train.batch, Machine("cpu", "float32"))
    [batch] = loader.micro_batches(step - 1, settings.train.batch)
    return [
        dataset.tokenizer.decode([*row.tolist(), last])
        for row, last in zip(batch.inputs, batch.targets[:, -1].tolist(), strict=True)
    ]


@pytest.mark.parametrize("step", [1, 17, 40])
def test_it_is_what_the_loader_gave(trained, capsys: pytest.CaptureFixture[str], step: int) -> None:
    found = shown(trained, capsys, "--step", str(step))
    assert [sample["text"] for sample in found] == learned(trained, step)
    assert [sample["number"] for sample in found] == list(range(4 * step - 4, 4 * step))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_and_micro_batches_are_parts_of_the_same_batch(trained, capsys, ranks: int) -> None:
    whole = shown(trained, capsys, "--step", "5")
    parts = [shown(trained, capsys, "--step", "5", "--ranks", str(ranks), "--rank", str(rank)) for rank in range(ranks)]
    assert [sample["text"] for part in parts for sample in part] == [sample["text"] for sample in whole]
    pieces = max(sample["micro_batch"] for sample in whole) + 1
    each = [shown(trained, capsys, "--step", "5", "--micro-batch", str(piece)) for piece in range(pieces)]
    assert [sample for part in each for sample in part] == whole


def test_samples_are_found_by_their_numbers(trained, capsys) -> None:
    assert shown(trained, capsys, "--samples", "16-19") == shown(trained, capsys, "--step", "5")
    assert shown(trained, capsys, "--samples", "18") == shown(trained, capsys, "--step", "5")[2:3]


def test_documents_are_those_of_the_window(trained, capsys) -> None:
    dataset = open_dataset(trained.folder / validated(RunFolder(trained.runs / "bird").config()).data.path)
    starts = list(dataset.split("train").document_starts())
    for sample in shown(trained, capsys, "--samples", "0-50"):
        first, last = sample["documents"]
        assert starts[first] <= sample["start"]
        assert first + 1 == len(starts) or starts[first + 1] > sample["start"]
        assert last + 1 == len(starts) or starts[last + 1] > sample["start"] + len(sample["text"]) - 1


def test_after_a_rescue_it_shows_what_the_step_learned_from_in_the_end(home, capsys, monkeypatch) -> None:
    usual = TrainStep._attempt

    def attempt(self: TrainStep, step: int) -> Any:
        found = usual(self, step)
        return replace(found, loss=found.loss * float("nan")) if self.route.batch(step) in (8, 9, 10) else found

    monkeypatch.setattr(TrainStep, "_attempt", attempt)
    home.train("bird", "--train.steps", "16", "--train.save_every", "6", "--train.eval_every", "0")
    assert [sample["number"] for sample in shown(home, capsys, "--step", "6")] == [20, 21, 22, 23]
    assert [sample["number"] for sample in shown(home, capsys, "--step", "7")] == [44, 45, 46, 47]


@pytest.mark.parametrize("change", [("seed = 1337", "seed = 1338"), ("batch = 4", "batch = 8")])
def test_edited_settings_would_show_another_text_and_are_refused(own, capsys, change: tuple[str, str]) -> None:
    config = own.runs / "bird" / "config.toml"
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change))
    assert main(["data", "show", "bird", "--step", "3", "--runs", str(own.runs)]) == 2
    assert "edited since the run was made" in capsys.readouterr().err


def test_a_person_sees_text_and_where_it_stands(trained, capsys) -> None:
    assert main(["data", "show", "bird", "--step", "2", "--runs", str(trained.runs)]) == 0
    out = capsys.readouterr().out
    assert "sample 4: rank 0, micro-batch 0, from token" in out
    assert "  | " in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--step", "0"], "there is no step 0"),
        (["--step", "41"], "there is no step 41"),
        (["--step", "x"], "--step"),
        (["--step", "3", "--ranks", "3"], "--ranks cannot be 3"),
        (["--step", "3", "--ranks", "0"], "--ranks cannot be 0"),
        (["--step", "3", "--rank", "1"], "no such part"),
        (["--samples", "9-3"], "--samples cannot be '9-3'"),
        (["--samples", ""], "--samples cannot be ''"),
        (["--samples", "many"], "--samples cannot be 'many'"),
        ([], "--step"),
    ],
)
def test_what_is_not_there_is_said(trained, capsys: pytest.CaptureFixture[str], words: list[str], named: str) -> None:
    assert main(["data", "show", "bird", *words, "--runs", str(trained.runs)]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert named in error
    assert hint.startswith("hint: ")
