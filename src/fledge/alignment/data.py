"""The data of an alignment run: [align] data → training and held-out examples."""

from collections.abc import Sequence
from dataclasses import dataclass

from fledge.alignment.config import AlignConfig
from fledge.alignment.tasks.registry import find_task, is_task
from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.core.progress import notice
from fledge.datasets.conversations import read_examples
from fledge.datasets.examples import Example, fingerprint, split_examples


@dataclass(frozen=True)
class AlignData:
    train: Sequence[Example]
    val: Sequence[Example]

    @property
    def fingerprint(self) -> str:
        return fingerprint([*self.train, *self.val])


def load_data(config: AlignConfig, seed: int) -> AlignData:
    """Built-in tasks make examples, everything else is read and split."""
    made = [find_task(source) for source in config.data if is_task(source)]
    files = [source for source in config.data if not is_task(source)]
    train, val = split_examples(with_question(read_examples(files)), config.val)
    for task in made:
        train += task.examples(seed, config.examples, "train")
        val += task.examples(seed, config.val, "val")
    return AlignData(train, val)


def with_question(examples: Sequence[Example]) -> list[Example]:
    """Those that ask something. The others are counted in a notice; UserError where there are only others."""
    kept = [each for each in examples if any(message["role"] == "user" for message in each.messages)]
    if len(kept) < len(examples):
        without = f"{counted(len(examples) - len(kept), 'example')} of {len(examples):,} without a question"
        if not kept:
            raise UserError(f"nothing can be learned from {without}", "a conversation needs a message of the user")
        notice(f"warning: {without} left out")
    return kept
