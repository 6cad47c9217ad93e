"""torch.compile changes the speed and nothing else, and a machine without a compiler trains all the same."""

import shutil
from pathlib import Path

import pytest

from fledge.track.sinks import read_metrics


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_run_learns_the_same_and_resumes_to_the_same_bits(home, outcome_of) -> None:
    plain = home.train("plain")
    compiled = home.train("compiled", "--train.compile", "true", "--train.keep_last", "9")
    losses = [read_metrics(run)["train_loss"][-1] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert '"compiled": true' in (compiled / "events.jsonl").read_text()
    whole = outcome_of(compiled)
    assert home.do("resume", "compiled@6") == 0
    assert outcome_of(compiled) == whole


def test_without_a_compiler_training_goes_on_and_says_so_in_a_line(
    home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    run = home.train("slow", "--train.compile", "true")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "no C++ compiler" in warnings[0]
    assert '"compiled": false' in (run / "events.jsonl").read_text()
