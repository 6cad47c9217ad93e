"""Ranks that align a model together learn what one process learns."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fledge.cli.main import main
from tiny import WORDS

if TYPE_CHECKING:
    from ..conftest import Home


def losses(run: Path) -> list[tuple[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [(row["train/loss"][:7], row["val/loss"][:7]) for row in csv.DictReader(file)]


def test_sft_on_two_ranks_learns_what_one_process_learns(home: "Home", together: Callable[..., str]) -> None:
    home.train("bird", "--model.context", "48")
    data = home.folder / "talks.jsonl"
    talks = [{"prompt": f"the {a} {b}", "completion": f"{b} {a}"} for a in WORDS for b in WORDS if a != b]
    data.write_text("".join(json.dumps(each) + "\n" for each in talks))

    def aligning(run: str, *words: str) -> list[str]:
        sizes = ("--train.steps", "6", "--train.batch", "8", "--train.eval_every", "3", "--train.log_every", "1")
        machine = ("--train.device", "cpu", "--train.dtype", "float32", "--train.compile", "false")
        return home.words("align", "sft", "--init", "bird", "--data", str(data), "--run", run, *sizes, *machine, *words)

    assert main(aligning("alone")) == 0
    alone = losses(home.runs / "alone")
    assert len(alone) == 7
    for parallel in ("ddp", "fsdp"):
        said = together(aligning(parallel, "--train.parallel", parallel), 2)
        assert said.count("182 examples") == 1
        for ours, theirs in zip(losses(home.runs / parallel), alone, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert (one == other == "") or float(one) == pytest.approx(float(other), abs=2e-4)
