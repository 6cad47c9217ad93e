"""torch.compile changes only the speed. Where it fails or miscompiles, training falls back to eager code."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compiling import compile_small_model
from fledge.batches.loader import Batch
from fledge.core.device import find_compiler
from fledge.tracking.sinks.csv import read_metrics
from fledge.training.objective import LossSum
from fledge.training.parallel import LossModel
from forked import CONTEXT


@pytest.mark.skipif(not find_compiler("cpu").value, reason="needs a C++ compiler")
def test_compiled_run_learns_the_same_and_resumes_exactly(home, outcome_of) -> None:
    plain = home.train("plain")
    compiled = home.train("compiled", "--train.compile", "true", "--train.keep_last", "9")
    losses = [read_metrics(run)["train/loss"][-1] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert '"compiled": true' in (compiled / "events.jsonl").read_text()
    whole = outcome_of(compiled)
    assert home.do("resume", "compiled@6") == 0
    assert outcome_of(compiled) == whole


@pytest.mark.skipif(not find_compiler("cpu").value, reason="needs a C++ compiler")
def test_compiled_code_is_cached(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    home.train("plain", "--train.steps", "1")
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == home.folder / "cache" / "compiled"


@pytest.mark.skipif(not find_compiler("cpu").value, reason="needs a C++ compiler")
def test_another_process_finds_the_compiled_code() -> None:
    """In the cache that all these tests share: what compiled here may have been there before."""
    found = []
    for _ in range(2):
        with CONTEXT.Pool(1) as process:
            found.append(process.apply(compile_small_model, [os.environ["TORCHINDUCTOR_CACHE_DIR"]]))
    (missed, hit), again = found
    assert missed + hit > 0
    assert again == (0, missed + hit)


def test_missing_compiler_falls_back_with_a_warning(
    home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], warnings_in
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    run = home.train("slow", "--train.compile", "true")
    warnings = warnings_in(capsys.readouterr().err)
    assert len(warnings) == 1
    assert "no C++ compiler" in warnings[0]
    assert '"compiled": false' in (run / "events.jsonl").read_text()


@pytest.mark.parametrize("compiler", ["/bin/false", "/nonexistent/c++"])
def test_broken_compiler_falls_back(home, monkeypatch: pytest.MonkeyPatch, warnings_in, compiler: str) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(home.folder / "compiled"))  # nothing is compiled yet
    process = home.start(home.training("slow", "--train.compile", "true"))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(warnings_in(said)) == 1, said


def wrong_compiler(eager, **_):
    """Compiled code whose gradients are all zero, as torch 2.11 once generated it."""

    def wrong(batch: Batch) -> LossSum:
        found = eager(batch)
        return replace(found, total=found.total.detach().requires_grad_())

    return wrong


def checks(run: Path) -> list[tuple[int, bool]]:
    found = (json.loads(line) for line in (run / "events.jsonl").read_text().splitlines())
    return [(event["step"], event["ok"]) for event in found if event["event"] == "CompileChecked"]


def test_miscompiled_code_is_never_used(
    home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome_of, warnings_in
) -> None:
    monkeypatch.setattr("fledge.core.device.shutil.which", lambda _: "/usr/bin/c++")
    plain = home.train("plain", "--train.keep_last", "9")
    capsys.readouterr()
    monkeypatch.setattr(torch, "compile", wrong_compiler)
    run = home.train("wrong", "--train.compile", "true", "--train.keep_last", "9")
    warnings = warnings_in(capsys.readouterr().err)
    assert len(warnings) == 1
    assert "produced a wrong result" in warnings[0]
    assert checks(run) == [(0, False)]
    whole = outcome_of(run)
    assert whole["model"] == outcome_of(plain)["model"]
    assert home.do("resume", "wrong@6") == 0  # it knows, and does not try again
    assert checks(run) == [(0, False)]
    assert outcome_of(run) == whole


@pytest.mark.skipif(not find_compiler("cpu").value, reason="needs a C++ compiler")
@pytest.mark.parametrize("chunked", ["true", "false"])
def test_compiled_run_with_large_vocabulary_learns(home, chunked: str) -> None:
    settings = ("--model.vocab_size", "4096", "--train.compile", "true", "--train.chunked_loss", chunked)
    run = home.train("large", *settings, "--train.steps", "40", "--train.sample_every", "0")
    metrics = read_metrics(run)
    assert checks(run) == [(0, True)]
    assert min(metrics["train/grad_norm"][1:]) > 0
    assert metrics["train/loss"][1] - metrics["train/loss"][-1] > 1


def test_model_that_does_not_learn_ends_with_advice(
    home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = LossModel.forward

    def stuck(self: LossModel, batch: Batch) -> LossSum:
        found = usual(self, batch)
        return replace(found, total=found.total * 0 + 3.0 * batch.inputs.numel())

    monkeypatch.setattr(LossModel, "forward", stuck)
    assert home.do(*home.training("stuck")[:-2]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: the model does not learn: the gradient was exactly zero in 5 steps")
    assert "--train.compile false" in hint
    events = [json.loads(line) for line in (home.runs / "stuck" / "events.jsonl").read_text().splitlines()]
    assert [event["reason"] for event in events if event["event"] == "Anomaly"]


def test_learning_rate_too_small_ends_with_advice(home, capsys: pytest.CaptureFixture[str]) -> None:
    words = home.training("slow", "--optim.lr", "1e-15", "--optim.min_lr", "1e-15", "--optim.weight_decay", "0")
    assert home.do(*words[:-2]) == 2
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert "the model does not learn: the weights did not change" in error
    assert "--optim.lr" in hint
