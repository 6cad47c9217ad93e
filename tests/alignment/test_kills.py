"""kill -9 in the middle of DPO, PPO and GRPO, ten times each: the end is that of the run that was never killed."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from fault_harness import RUN, Harness
from fork_server import Child
from tiny import WORDS

KILLS = 10
PHASES = {"step": 3, "save": 2, "evaluation": 1, "sampling": 1}  # and how often a process enters them, at least
REWARD = "def reward(answer):\n    return answer.count('o') - len(answer) / 10\n"
SHORT = {"steps": 8, "batch": 4, "save_every": 2, "eval_every": 4, "sample_every": 4, "log_every": 1, "threads": 1}
ROLLOUT = {"prompts": 4, "max_tokens": 6, "slots": 4, "decoder": "plain float32, 1 thread"}
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "ppo": {"ppo": {"epochs": 2}},
    "grpo": {"grpo": {"group": 2, "kl_coef": 0.1}},
}


class AlignHarness(Harness):
    """Aligns the run `base`, which is trained once."""

    def __init__(self, folder: Path, method: str, base: Path) -> None:
        super().__init__(folder)
        self.method, self.data, self.reward = method, base / "pairs.jsonl", base / "reward.py"
        shutil.copytree(base / "runs", self.runs)

    def train(self, *words: str, **_: Any) -> Child:
        sections = {"train": {**SHORT, "seed": 7}, "optim": {"lr": 0.01}, "rollout": ROLLOUT, **METHODS[self.method]}
        settings = [f"--{name}.{key}={value}" for name, keys in sections.items() for key, value in keys.items()]
        given = ("--init", "base", "--data", str(self.data), "--reward", str(self.reward), "--run", RUN)
        return self._start("align", self.method, *given, "--runs", str(self.runs), *settings, *words)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `base`, pairs of answers and a reward."""
    harness, chance = Harness(tmp_path_factory.mktemp("base")), random.Random(0)
    rows = [
        {"prompt": text[0], "chosen": text[1], "rejected": text[2]}
        for text in ([" ".join(chance.choices(WORDS, k=2)) for _ in range(3)] for _ in range(40))
    ]
    (harness.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (harness.folder / "reward.py").write_text(REWARD)
    child = harness.train("--run", "base", "--train.steps", "4", "--model.context", "48")
    assert child.wait() == 0, child.output()
    return harness.folder


@pytest.fixture(params=METHODS)
def harness(tmp_path: Path, request: pytest.FixtureRequest, base: Path) -> AlignHarness:
    return AlignHarness(tmp_path, request.param, base)


def test_killed_alignment_ends_bit_identical(harness: AlignHarness) -> None:
    child = harness.finish()
    lengths = {phase: child.marks.length(phase) for phase in PHASES}
    undisturbed = harness.contents()
    harness.run.rename(harness.folder / "undisturbed")

    chance, died = random.Random(harness.method), list[str]()
    while len(died) < KILLS:
        phase = chance.choice(list(PHASES))
        child = harness.continue_run()
        child.send_signal_in(phase, chance.randint(1, PHASES[phase]), chance.uniform(0, lengths[phase]))
        code = child.wait()
        assert code in (137, 0) or (code == 2 and "is finished" in child.output()), child.output()
        if code == 137:
            died.append(child.marks.phase)
        else:  # it was through before: once more from the beginning
            assert harness.contents() == undisturbed, died
            harness.run.rename(harness.folder / f"finished-{len(died)}-{phase}")
    harness.finish()
    assert harness.contents() == undisturbed, died
