"""torch.compile changes the speed and nothing else, and a machine without a compiler trains all the same."""

import shutil
import subprocess
import sys
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


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_code_is_kept_for_the_next_run(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    code = (
        "import sys; from fledge.cli import main; assert main(sys.argv[1:]) == 0\n"
        "from torch._dynamo.utils import counters\n"
        "print(*(counters['inductor'][f'fxgraph_cache_{found}'] for found in ('miss', 'hit')))"
    )
    short = ("--train.compile", "true", "--model.n_layer", "1", "--train.steps", "1", "--train.eval_every", "0")
    found = []
    for name in ("first", "second"):
        words = home.training(name, *short)
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        missed, hit = map(int, done.stdout.splitlines()[-1].split())
        found.append((missed > 0, hit > 0))
    assert found == [(True, False), (False, True)]
    assert any((home.folder / "cache" / "compiled").iterdir())


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


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/c++"])
def test_a_compiler_that_does_not_work_is_no_reason_not_to_train(
    home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compiler: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    code = "import sys; from fledge.cli import main; sys.exit(main(sys.argv[1:]))"
    words = home.training("slow", "--train.compile", "true")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)  # torch reads CXX once
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("warning: ")]) == 1
