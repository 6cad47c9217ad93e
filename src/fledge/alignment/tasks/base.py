"""What a task is: problems with a right answer, a wrong one, and a rule that rewards any answer.

    task = find_task("addition")
    task.examples(seed=1, count=1000, split="train")
    task.reward("1 2 + 3 4 =", "6 4", "6 4")        # 1.0

SFT learns `target` as the answer, reward models and DPO compare `chosen` with `rejected`, and PPO and GRPO answer
`messages` and get the reward. A fully right answer has the reward 1.

The hash of a question decides whether it is held out: one of four is, whatever the seed. So no method trains on what
another evaluates, and all runs are evaluated on the same held-out questions.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal

from fledge.datasets.examples import Example

if TYPE_CHECKING:
    from fledge.alignment.setup import Reward

SplitName = Literal["train", "val"]
HELD_OUT = 4  # one question of so many
EXHAUSTED = 2000  # known questions in a row: there are hardly any new ones


@dataclass(frozen=True)
class Problem:
    prompt: str
    target: str
    rejected: str  # a plausible wrong answer
    chosen: str = ""  # the answer that is compared with `rejected`; unset: the target
    key: str = ""  # equal for questions that ask the same (2 + 3, 3 + 2): they are in one split; unset: the prompt

    @property
    def held_out(self) -> bool:
        digest = hashlib.sha256((self.key or self.prompt).encode()).digest()
        return int.from_bytes(digest[:8]) % HELD_OUT == 0

    def example(self, task: str) -> Example:
        message, chosen = {"role": "user", "content": self.prompt}, self.chosen or self.target
        return Example((message,), chosen, self.rejected, self.target, fields={"task": task})


@dataclass(frozen=True)
class Task:
    name: str
    summary: str  # one line
    problems: Callable[[Random], Iterator[Problem]]  # in random order; may repeat some, need not end
    reward: "Reward"

    def examples(self, seed: int, count: int, split: SplitName) -> list[Example]:
        """Different questions, fewer where the task has fewer. Those of "val" do not depend on the seed."""
        chance = Random(f"{self.name} {seed if split == 'train' else split}")  # noqa: S311
        found, repeated = dict[str, Example](), 0
        for problem in self.problems(chance):
            if len(found) == count or repeated == EXHAUSTED:
                break
            if problem.held_out != (split == "val"):
                continue
            repeated = repeated + 1 if problem.prompt in found else 0
            found.setdefault(problem.prompt, problem.example(self.name))
        return list(found.values())


def exact(prompt: str, answer: str, target: str | None) -> float:  # noqa: ARG001
    """1 for the target, else 0."""
    return float(answer.strip() == target)
