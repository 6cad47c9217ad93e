"""Ranks that align together: each generates its share of the answers, and they learn what one process learns."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fledge.tracking.sinks.csv import read_metrics
from tiny import WORDS, last_checkpoint

SETTINGS = ("--train.steps", "6", "--train.batch", "4", "--train.log_every", "1", "--train.eval_every", "3")
ROLLOUT = ("--rollout.prompts", "8", "--rollout.max_tokens", "6", "--rollout.slots", "4", "--train.dtype", "float32")
DECODER = ("--rollout.decoder", "plain float32, 1 thread", "--train.sample_every", "0")
CLOSE = ("train/loss", "ppo/kl", "ppo/value_loss", "rollout/entropy", "ppo/advantage", "val/length")


def columns(run: Path, names: tuple[str, ...]) -> list[float]:
    found = read_metrics(run)
    return [value for name in names for value in found.measured(name)]


def test_two_ranks_have_the_episodes_and_losses_of_one(home: Any, together: Callable[..., str]) -> None:
    home.train("base", "--model.context", "48", "--train.steps", "4")
    chance = random.Random(0)
    prompts = home.folder / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": " ".join(chance.choices(WORDS, k=2))}) for _ in range(40)))
    (home.folder / "reward.py").write_text("def reward(answer):\n    return len(answer) % 5\n")
    given = ("--init", "base", "--data", str(prompts), "--reward", str(home.folder / "reward.py"))
    for size in (1, 2):
        words = home.words("align", "ppo", *given, "--run", f"by-{size}", *SETTINGS, *ROLLOUT, *DECODER)
        together(words, size)
    alone, two = home.runs / "by-1", home.runs / "by-2"
    ours, theirs = (load_file(last_checkpoint(run) / "rollout.safetensors") for run in (alone, two))
    for name in ("inputs", "targets", "rewards"):
        assert ours[name].equal(theirs[name]), name
    assert columns(two, CLOSE) == pytest.approx(columns(alone, CLOSE), rel=1e-3, abs=1e-5)
    assert columns(two, ("rollout/reward", "val/reward")) == pytest.approx(
        columns(alone, ("rollout/reward", "val/reward"))
    )
