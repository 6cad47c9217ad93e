"""Tasks of the package reasoning-gym: reasoning-gym:chain_sum. The package checks the answers."""

import functools
from collections.abc import Iterator
from random import Random
from typing import Any

from fledge.alignment.tasks.base import Problem, Task
from fledge.core.errors import UserError, nearest

PREFIX = "reasoning-gym:"
SIZE = 20_000  # problems of a dataset


@functools.cache  # its reward knows the examples that it has made
def gym_task(name: str) -> Task:
    """`name`: of a dataset of reasoning-gym."""
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        missing = f"the tasks of reasoning-gym need a package that is missing: {error.name}"
        raise UserError(missing, "install it: pip install 'fledge[reasoning-gym]'") from None
    if name not in DATASETS:
        hint = nearest(name, DATASETS) or "its names are those of github.com/open-thought/reasoning-gym"
        raise UserError(f"reasoning-gym has no dataset '{name}'", hint)
    entries: dict[str, Any] = {}  # question → what checks the answer

    def problems(chance: Random) -> Iterator[Problem]:
        """The rejected answer is that of another question."""
        dataset, before = create_dataset(name, size=SIZE, seed=chance.randrange(2**31)), ""
        for entry in dataset:
            entries[entry["question"]] = entry
            answer = str(entry["answer"])
            if before not in ("", answer):
                yield Problem(entry["question"], answer, before)
            before = answer

    def reward(prompt: str, answer: str, target: str | None) -> float:
        if prompt not in entries:  # a question of the user
            return float(answer.strip() == target)
        return float(dataset.score_answer(answer.strip(), entries[prompt]))

    dataset = create_dataset(name, size=1, seed=0)
    return Task(f"{PREFIX}{name}", f"{name} of reasoning-gym", problems, reward)
