"""fledge data show from the command line."""

import json
from typing import Any

import pytest

from fledge.cli.main import main


def shown(home, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["data", "show", "bird", *words, "--runs", str(home.runs), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["samples"]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_rank_and_micro_batch_choose_parts_of_the_batch(trained, capsys, ranks: int) -> None:
    whole = shown(trained, capsys, "--step", "5")
    parts = [shown(trained, capsys, "--step", "5", "--ranks", str(ranks), "--rank", str(rank)) for rank in range(ranks)]
    assert [sample["text"] for part in parts for sample in part] == [sample["text"] for sample in whole]
    pieces = max(sample["micro_batch"] for sample in whole) + 1
    each = [shown(trained, capsys, "--step", "5", "--micro-batch", str(piece)) for piece in range(pieces)]
    assert [sample for part in each for sample in part] == whole


def test_samples_by_number_are_those_of_the_step(trained, capsys) -> None:
    assert shown(trained, capsys, "--samples", "16-19") == shown(trained, capsys, "--step", "5")
    assert shown(trained, capsys, "--samples", "18") == shown(trained, capsys, "--step", "5")[2:3]


@pytest.mark.parametrize("change", [("seed = 1337", "seed = 1338"), ("batch = 4", "batch = 8")])
def test_edited_settings_are_refused(own, capsys, change: tuple[str, str]) -> None:
    config = own.runs / "bird" / "config.toml"
    assert change[0] in config.read_text()
    config.write_text(config.read_text().replace(*change))
    assert main(["data", "show", "bird", "--step", "3", "--runs", str(own.runs)]) == 2
    assert "edited since the run was created" in capsys.readouterr().err


def test_output_for_people_has_text_and_position(trained, capsys) -> None:
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
def test_mistake_is_refused(trained, capsys: pytest.CaptureFixture[str], words: list[str], named: str) -> None:
    assert main(["data", "show", "bird", *words, "--runs", str(trained.runs)]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert named in error
    assert hint.startswith("hint: ")
