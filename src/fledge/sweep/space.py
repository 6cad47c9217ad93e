"""What a sweep may try: ranges and lists of settings; and which of them comes next, as Optuna sees it.

    "optim.lr" = {low = 1e-4, high = 1e-2, log = true}     a range: a number, or a whole number where the setting is one
    "model.n_layer" = [2, 4, 6]                            a list: any values, in no order

What comes next is a function of the seed, its number, and what is known of those before it. Nothing is trained here.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_type_hints

from fledge.core.config import cast, refuse_unknown
from fledge.core.errors import UserError, nearest
from fledge.sweep.study import FAILED, FINISHED, Trial
from fledge.training.config import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SIZE = "model.size"  # no setting of a model, but many of them follow from it


class Dimension(Protocol):
    """All that one setting may be. Optuna knows a value by what `inside` gives."""

    def distribution(self) -> "BaseDistribution": ...

    def inside(self, value: Any) -> Any: ...

    def outside(self, drawn: Any) -> Any: ...

    def plain(self) -> Any:
        """As it stands in a file."""


@dataclass(frozen=True)
class RangeDimension:
    low: float
    high: float
    log: bool = False

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def inside(self, value: Any) -> Any:
        return value

    def outside(self, drawn: Any) -> Any:
        return drawn

    def plain(self) -> Any:
        return asdict(self)


@dataclass(frozen=True)
class ListDimension:
    """Optuna is told their places in the list: it takes no lists as values."""

    values: Sequence[Any]

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(range(len(self.values)))

    def inside(self, value: Any) -> Any:
        return self.values.index(value)

    def outside(self, drawn: Any) -> Any:
        return self.values[drawn]

    def plain(self) -> Any:
        return list(self.values)


Space = Mapping[str, Dimension]


# Reading


def read_space(section: Mapping[str, Any]) -> Space:
    """The section [space] of a sweep's file."""
    said = dict(_names(section))
    if not said:
        raise UserError("[space] is empty: there is nothing to try", '[space] holds, say, "model.n_layer" = [2, 4, 6]')
    return {name: _choice(name, value) for name, value in said.items()}


def _names(section: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """`optim.lr = …` without quotation marks is a table in TOML, and means the same."""
    pairs: list[tuple[str, Any]] = []
    for key, value in section.items():
        if "." in key or not isinstance(value, dict):
            pairs.append((key, value))
        else:
            pairs += [(f"{key}.{inner}", held) for inner, held in value.items()]
    return pairs


def _choice(name: str, said: Any) -> Dimension:
    head, dot, key = name.partition(".")
    if not dot:
        raise UserError(f"[space]: '{name}' is no setting", 'settings are written with their section: "optim.lr"')
    refuse_unknown(Settings, {head: {key: said}}, also=[SIZE])
    kind = str if name == SIZE else get_type_hints(get_type_hints(Settings)[head])[key]
    if isinstance(said, list) and said:
        return ListDimension([cast(name, kind, value) for value in said])
    if isinstance(said, dict):
        return _range(name, said, kind)
    raise UserError(
        f"[space]: {name} cannot be {said!r}", "write [2, 4, 6], or {low = 1, high = 9}; what is fixed goes elsewhere"
    )


def _range(name: str, said: Mapping[str, Any], kind: Any) -> RangeDimension:
    for key in said:
        if key not in ("low", "high", "log"):
            hint = nearest(key, ("low", "high", "log")) or "it takes low, high and log"
            raise UserError(f"[space]: a range has no '{key}': {name}", hint)
    kinds = {kind, *get_args(kind)}
    number = next((each for each in (int, float) if each in kinds), None)
    if number is None:
        raise UserError(f"[space]: {name} takes no number, so it has no range", "give a list of values")
    missing = [key for key in ("low", "high") if key not in said]
    if missing:
        raise UserError(f"[space]: {name} has no {missing[0]}", "write {low = 1, high = 9}")
    low, high = (cast(f"{name}: {key}", number, said[key]) for key in ("low", "high"))
    log = cast(f"{name}: log", bool, said.get("log", False))
    if not low < high or not math.isfinite(high - low):
        raise UserError(f"[space]: {name} goes from low = {low} to high = {high}", "low must lie below high")
    if log and low <= 0:
        raise UserError(f"[space]: {name} has log = true and low = {low}", "on a logarithmic scale low is above 0")
    return RangeDimension(low, high, log)


# Choosing


def refuse_missing_sampler() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("fledge sweep needs Optuna, which is not installed", "pip install 'fledge[sweep]'") from None


def suggest(space: Space, seed: int, known: Sequence[Trial]) -> dict[str, Any]:
    """The settings that come next, by a tree-structured Parzen estimator (TPE) that starts afresh each time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chance = hashlib.sha256(f"{seed}/{len(known)}".encode()).digest()
    sampler = optuna.samplers.TPESampler(seed=int.from_bytes(chance[:4]), constant_liar=True)
    study = optuna.create_study(sampler=sampler)  # of the least; in memory
    study.add_trials([_as_optuna_has_it(space, trial) for trial in known])
    drawn = study.ask({name: choice.distribution() for name, choice in space.items()}).params
    return {name: choice.outside(drawn[name]) for name, choice in space.items()}


def _as_optuna_has_it(space: Space, trial: Trial) -> "FrozenTrial":
    from optuna.trial import TrialState, create_trial

    states = {FINISHED: TrialState.COMPLETE, FAILED: TrialState.FAIL}
    return create_trial(
        state=states.get(trial.state, TrialState.RUNNING),
        params={name: choice.inside(trial.chosen[name]) for name, choice in space.items()},
        distributions={name: choice.distribution() for name, choice in space.items()},
        value=trial.loss,
    )
