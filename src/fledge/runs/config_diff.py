"""Compares the settings of a checkpoint with those that it is to be continued with.

never allowed             what the weights depend on, and the data order: model, data, tokenizer, batch, seed,
                          the n-gram fit, and the plan of rollouts, whose answers are in the checkpoint
with --allow-changes      everything else; each change is printed
"""

from dataclasses import dataclass
from typing import Any

from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.runs.run_folder import RunFolder

FIXED_SECTIONS = ("model", "data", "tokenizer", "align")
FIXED = (
    "train.batch",
    "train.seed",
    "train.ngram_steps",
    "rollout.prompts",
    "rollout.max_tokens",
    "grpo.group",
    "grpo.epochs",
    "ppo.epochs",
)
IGNORED = ("data.path",)  # the dataset is identified by its hash


@dataclass(frozen=True)
class Change:
    name: str
    before: Any
    after: Any

    @property
    def allowed(self) -> bool:
        return self.name not in FIXED and self.name.partition(".")[0] not in FIXED_SECTIONS

    def __str__(self) -> str:
        return f"{self.name}: {show_value(self.before)} → {show_value(self.after)}"


def show_value(value: Any) -> str:
    return "unset" if value is None else str(value)


def config_changes(before: Layer, after: Layer) -> list[Change]:
    names = sorted({f"{section}.{key}" for layer in (before, after) for section, keys in layer.items() for key in keys})
    pairs = ((name, _value(before, name), _value(after, name)) for name in names if name not in IGNORED)
    return [Change(name, old, new) for name, old, new in pairs if old != new]


def _value(layer: Layer, name: str) -> Any:
    section, _, key = name.partition(".")
    value = layer.get(section, {}).get(key)
    return list(value) if isinstance(value, tuple) else value


def refuse_changes(run: RunFolder, changes: list[Change], *, allow: bool) -> None:
    """Print every change; refuse those that are never allowed, and the others unless `allow`."""
    for change in changes:
        notice(f"  {change}")
    fixed = [change.name for change in changes if not change.allowed]
    if fixed:
        raise UserError(
            f"'{run.name}' cannot be resumed with a different {', '.join(fixed)}",
            f"restore the old setting, or start a new run from its weights: fledge train --init {run.reference}",
        )
    if changes and not allow:
        names = ", ".join(change.name for change in changes)
        raise UserError(
            f"'{run.name}' was trained with other settings: {names}", "if the change is intended, add --allow-changes"
        )
