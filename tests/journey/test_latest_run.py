"""Commands without RUN: the latest run is meant, and stderr says which."""

from collections.abc import Iterator

import pytest

from .conftest import Home

NOTICE = "using the latest run: crow\n"


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home with the runs 'bird' and, later, 'crow'."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        home = Home(folder)
        home.train("bird", "--train.steps", "2")
        home.train("crow", "--train.steps", "2")
        yield home


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--tokens", "3"],
        ["eval"],
        ["export", "--to", "hf", "--out", "OUT"],
        ["eject", "--out", "OUT"],
        ["plot", "--out", "OUT"],
        ["data", "show", "--step", "1"],
        ["resume", "--verify"],
        ["resume", "--train.steps", "4", "--allow-changes"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_command_without_run_takes_the_latest(
    two_runs: Home, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    out = two_runs.folder / f"out-{words[0]}"
    capsys.readouterr()
    assert two_runs.do(*(str(out) if word == "OUT" else word for word in words), "--json") == 0
    printed, told = capsys.readouterr()
    assert told.count(NOTICE) == 1
    assert "crow" in printed or words[0] == "plot"


def test_command_without_run_or_any_run_is_refused(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("generate") == 2
    assert "train one first: fledge demo" in capsys.readouterr().err


def test_eject_of_the_latest_run_takes_no_settings(two_runs: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert two_runs.do("eject", "--model.n_layer", "6", "--out", str(two_runs.folder / "six.py")) == 2
    assert "'crow' is a run: its settings cannot be changed" in capsys.readouterr().err
