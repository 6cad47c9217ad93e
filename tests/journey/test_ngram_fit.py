"""train.ngram_steps from the command line: what a run starts from, resumed, continued by others, and refused."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.checkpoint import store
from fledge.cli.main import main
from fledge.model.init import build
from fledge.runs.run_folder import RunFolder
from fledge.settings.pipeline import validated
from fledge.tracking.sinks.csv import read_metrics
from tiny import remains

FIT = ("--train.ngram_steps", "30", "--model.bigram_rows", "300", "--train.keep_last", "9")
LONG = ("--train.steps", "60", "--train.save_every", "20", "--train.eval_every", "20", "--train.sample_every", "30")


FREQUENT = ("--model.bigram_pairs", "frequent")


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    return store.load(store.verify(run / "checkpoints" / "step-00000000")).weights


def val_losses(run: Path) -> dict[int, float]:
    metrics = read_metrics(run)
    steps, losses = metrics["step"], metrics["val/loss"]
    return {int(step): loss for step, loss in zip(steps, losses, strict=True) if loss == loss}


def test_run_starts_from_the_fitted_weights(home, capsys: pytest.CaptureFixture[str]) -> None:
    plain, run = home.train("plain", *FIT[2:]), home.train("bird", *FIT)
    assert val_losses(run)[0] < val_losses(plain)[0] - 1
    assert val_losses(run)[12] < val_losses(plain)[12]
    settings = validated(RunFolder(run).config())
    assert settings.train.ngram_steps == 30
    config = RunFolder(run).model_config()
    fitted, new = first_weights(run), dict(build(config, settings.train.seed).named_parameters())
    changed = {name for name, weight in fitted.items() if not torch.equal(weight, new[name])}
    assert changed == {"embed.weight", "head.weight", "bigram.weight"}
    capsys.readouterr()
    assert home.do("resume", "bird@0", "--verify") == 0
    assert "…  identical" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [(), ("--train.dtype", "bfloat16", "--model.tied", "true"), FREQUENT],
    ids=["plain", "bf16", "frequent pairs"],
)
def test_resume_after_sigkill_is_bit_identical(home, ended: Callable[..., Any], settings: tuple[str, ...]) -> None:
    whole = home.train("whole", *FIT, *LONG, *settings)
    broken = home.runs / "broken"
    code, said = ended(home.start(home.training("broken", *FIT, *LONG, *settings)), broken, 25)
    assert code == -signal.SIGKILL, said
    assert home.do("resume", "broken") == 0
    assert remains(broken) == remains(whole)
    assert home.do("resume", "broken@0") == 0
    assert remains(broken) == remains(whole)


def test_frequent_pairs_are_kept_with_the_weights(home, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = first_weights(home.train("bird", *FIT, *FREQUENT))["bigram.pairs"]
    assert len(pairs) == 300
    assert 20 < len(set(pairs.tolist())) < 300
    assert pairs.tolist() == sorted(pairs.tolist())
    from_it = home.train("owl", "--init", "bird", *FIT[2:], *FREQUENT)
    assert torch.equal(first_weights(from_it)["bigram.pairs"], pairs)
    capsys.readouterr()
    assert main(home.training("none", *FIT[2:], *FREQUENT)) == 2
    said = capsys.readouterr().err
    assert "model.bigram_pairs = frequent, but no step on n-gram counts" in said
    assert "hint: use --model.bigram_pairs hashed" in said


def test_run_from_its_weights_fits_nothing(home, capsys: pytest.CaptureFixture[str]) -> None:
    run = home.train("bird", *FIT)
    last = store.load(store.verify(run / "checkpoints" / "step-00000012")).weights
    for name, words in (
        ("its", ("train", "--data.corpus", str(home.text), "--train.steps", "2")),
        ("files", ("train", str(run / "config.toml"), "--train.steps", "2")),
        ("none", ("train", str(run / "config.toml"), "--train.steps", "2", "--train.ngram_steps", "0")),
    ):
        assert home.do(*words, "--init", "bird@12", "--run", name) == 0
        assert validated(RunFolder(home.runs / name).config()).train.ngram_steps == 0
        started = first_weights(home.runs / name)
        assert all(torch.equal(weight, last[each]) for each, weight in started.items())
    capsys.readouterr()
    assert home.do("train", "--init", "bird", "--train.ngram_steps", "5", "--run", "refused") == 2
    assert "train.ngram_steps fits new weights, and this model starts from 'bird'" in capsys.readouterr().err
    assert not (home.runs / "refused").exists()


def test_model_without_a_final_norm_is_refused(home, capsys: pytest.CaptureFixture[str]) -> None:
    assert home.do("train", str(home.toml), str(home.text), "--run", "bird", *FIT, "--model.final_norm", "false") == 2
    assert "train.ngram_steps fits a model without its blocks" in capsys.readouterr().err
    assert not (home.runs / "bird").exists()
