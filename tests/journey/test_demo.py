"""`fledge demo`: the whole journey in one command, here on a short text."""

import pytest

from fledge.recipes import demo
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated


@pytest.fixture(autouse=True)
def short_text(home, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**demo.SETTINGS, "data": {"corpus": str(home.text)}, "tokenizer": {"vocab_size": 300}}
    monkeypatch.setattr(demo, "SETTINGS", settings)


def test_demo_tells_what_it_does_and_shows_samples(home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("demo", "--minutes", "0.5") == 0
    out, said = capsys.readouterr()
    stages = ["1. machine", "2. text", "3. tokens", "4. model", "5. training"]
    assert sorted(stages, key=said.index) == stages
    run = RunFolder(home.runs / "demo")
    settings = validated(run.config())
    assert settings.train.minutes == pytest.approx(0.45)
    assert settings.train.ngram_steps > 0
    assert out.count("    | def __init__(self") == 2
    assert f"after {run.last_step():,} steps" in out
    assert (run.folder / "plots").is_dir()


@pytest.mark.parametrize("minutes", ["0.4", "-1", "nan", "inf"])
def test_impossible_minutes_are_refused(home, minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("demo", "--minutes", minutes) == 2
    assert "a demo takes half a minute or more" in capsys.readouterr().err
    assert not (home.runs / "demo").exists()
