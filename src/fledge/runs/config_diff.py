"""What differs between a checkpoint and the settings that somebody wants to go on with.

never      what a weight means and which text comes when: model, data, tokenizer, batch, seed
if meant   everything else: told one by one, and done with --allow-changes
"""

from dataclasses import dataclass
from typing import Any

from fledge.core.config import Layer
from fledge.core.errors import UserError
from fledge.core.progress import notice

FIXED_SECTIONS = ("model", "data", "tokenizer")
FIXED = ("train.batch", "train.seed")
FREE = ("data.path",)  # where the text lies; that it is the same text shows in its hash


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
    pairs = ((name, _value(before, name), _value(after, name)) for name in names if name not in FREE)
    return [Change(name, old, new) for name, old, new in pairs if old != new]


def _value(layer: Layer, name: str) -> Any:
    section, _, key = name.partition(".")
    value = layer.get(section, {}).get(key)
    return list(value) if isinstance(value, tuple) else value


def refuse_changes(run: str, found: list[Change], *, allow: bool) -> None:
    """Each is told. Those that would make another run of it are refused, and the others unless they are meant."""
    for change in found:
        notice(f"  {change}")
    fixed = [change.name for change in found if not change.allowed]
    if fixed:
        raise UserError(
            f"'{run}' cannot go on with another {', '.join(fixed)}",
            f"put the old setting back, or begin from its weights: fledge train --init {run}",
        )
    if found and not allow:
        names = ", ".join(change.name for change in found)
        raise UserError(f"'{run}' was trained with other settings: {names}", "if that is meant, add --allow-changes")
