"""The file of a sweep: which settings are tried, in which ranges, and what all trials share.

    "optim.lr" = {low = 1e-4, high = 1e-2, log = true}     a range: a float, or an integer where the setting is one
    "model.n_layer" = [2, 4, 6]                            a list: any values, in no order

`suggest` draws the next settings from this space. It is a function of the seed and of the trials before.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from fledge.core.config import Layer, build, cast, check_counts, read_toml, refuse_unknown, setting
from fledge.core.errors import UserError, nearest
from fledge.settings.layers import merge_layers, read_preset
from fledge.settings.pipeline import validated
from fledge.training.config import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    Space = Mapping[str, BaseDistribution]  # "section.key" → its values

SIZE = "model.size"  # not a setting of a model, but many follow from it
MAX_DRAWS = 10  # draws tried; at least one must be valid


@dataclass(frozen=True)
class SweepConfig:
    preset: str | None = setting(None, "what to train: a preset, or a FILE.toml")
    metric: Literal["val/loss", "val/bits_per_byte"] = setting(
        "val/loss", "what to minimize; bits per byte to compare tokenizers"
    )
    trials: int = setting(20, "number of runs")
    seed: int = setting(1, "random seed of the search")

    def __post_init__(self) -> None:
        check_counts(self, "sweep", ["trials"])
        if self.preset is None:
            raise UserError("[sweep] has no preset", 'write preset = "demo", or a FILE.toml')


@dataclass(frozen=True)
class SweepFile:
    sweep: SweepConfig


@dataclass(frozen=True)
class SweepPlan:
    """A sweep's file, read and checked."""

    config: SweepConfig
    space: "Space"
    shared: Layer  # the settings of all trials
    identity: dict[str, Any]  # what must be unchanged when a sweep is continued

    def settings(self, tried: Mapping[str, Any]) -> Settings:
        layer: dict[str, dict[str, Any]] = {}
        for name, value in tried.items():
            section, _, key = name.partition(".")
            layer.setdefault(section, {})[key] = value
        return validated(self.shared, layer)


def require_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise UserError("fledge sweep needs Optuna, which is not installed", "pip install 'fledge[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def read_sweep(path: Path) -> SweepPlan:
    sections = read_toml(path)
    for name in ("sweep", "space"):
        if name not in sections:
            raise UserError(f"'{path}' has no [{name}], so it is not a sweep", "see: fledge sweep --help")
    config = build(SweepFile, {"sweep": sections.pop("sweep")}).sweep
    ranges = flat_names(sections.pop("space"))
    space = read_space(ranges)
    assert config.preset is not None
    preset, _ = read_preset(config.preset)
    sections.pop("about", None)
    for name in space:
        section, _, key = name.partition(".")
        if key in sections.get(section, {}):
            raise UserError(f"{name} is set both in [{section}] and in [space]", "remove it from one of them")
    shared = merge_layers(preset, sections)
    identity = {**shared, "space": ranges, "sweep": {"metric": config.metric, "seed": config.seed}}
    plan = SweepPlan(config, space, shared, identity)
    refuse_invalid(plan)
    return plan


def refuse_invalid(plan: SweepPlan) -> None:
    """Refuse settings that are wrong in every trial. Where only some combinations are invalid, those trials fail."""
    if validated(plan.shared).train.eval_every == 0 and "train.eval_every" not in plan.space:
        raise UserError("train.eval_every = 0: trials could not be compared", "leave it out")
    errors = []
    for seed in range(MAX_DRAWS):
        try:
            plan.settings(suggest(plan.space, seed, []).params)
            return
        except UserError as error:
            errors.append(error)
    raise errors[0]


def flat_names(section: Mapping[str, Any]) -> dict[str, Any]:
    """{"optim.lr": …}; `optim.lr = …` without quotation marks is a table in TOML, and means the same."""
    values: dict[str, Any] = {}
    for key, value in section.items():
        is_table = isinstance(value, dict) and "." not in key
        values |= {f"{key}.{inner}": nested for inner, nested in value.items()} if is_table else {key: value}
    return values


def read_space(ranges: Mapping[str, Any]) -> "Space":
    """The section [space], with flat names."""
    if not ranges:
        raise UserError("[space] is empty: there is nothing to try", 'write, say, "model.n_layer" = [2, 4, 6]')
    return {name: _distribution(name, values) for name, values in ranges.items()}


def _distribution(name: str, values: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    section, dot, key = name.partition(".")
    if not dot:
        raise UserError(f"[space]: '{name}' is not a setting", 'settings are written with their section: "optim.lr"')
    refuse_unknown(Settings, {section: {key: values}}, also=[SIZE])
    kind = str if name == SIZE else get_type_hints(get_type_hints(Settings)[section])[key]
    if isinstance(values, list) and values:
        choices = [cast(name, kind, value) for value in values]
        # Optuna stores no tuples; a setting takes its tuple as JSON text, too.
        return CategoricalDistribution([json.dumps(each) if isinstance(each, tuple) else each for each in choices])
    if isinstance(values, dict):
        return _range(name, values, kind)
    raise UserError(
        f"[space]: {name} cannot be {values!r}",
        f"write [2, 4, 6], or {{low = 1, high = 9}}; a single value goes into [{section}]",
    )


def _range(name: str, values: Mapping[str, Any], kind: Any) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    for key in values:
        if key not in ("low", "high", "log"):
            hint = nearest(key, ("low", "high", "log")) or "it takes low, high and log"
            raise UserError(f"[space]: a range has no '{key}': {name}", hint)
    kinds = {kind, *get_args(kind)}
    number = next((each for each in (int, float) if each in kinds), None)
    if number is None:
        raise UserError(f"[space]: {name} takes no number, so it has no range", "give a list of values")
    missing = [key for key in ("low", "high") if key not in values]
    if missing:
        raise UserError(f"[space]: {name} has no {missing[0]}", "write {low = 1, high = 9}")
    low, high = (cast(f"{name}: {key}", number, values[key]) for key in ("low", "high"))
    log = cast(f"{name}: log", bool, values.get("log", False))
    if not low < high or not math.isfinite(high - low):
        raise UserError(f"[space]: {name} goes from low = {low} to high = {high}", "low must be below high")
    if log and low <= 0:
        raise UserError(f"[space]: {name} has log = true and low = {low}", "on a logarithmic scale low is above 0")
    return IntDistribution(low, high, log=log) if number is int else FloatDistribution(low, high, log=log)


def suggest(space: "Space", seed: int, known: Sequence["FrozenTrial"]) -> "FrozenTrial":
    """The next trial, by a tree-structured Parzen estimator (TPE) with a fresh seed for each trial."""
    import optuna

    digest = hashlib.sha256(f"{seed}/{len(known)}".encode()).digest()
    sampler = optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4]), constant_liar=True)
    study = optuna.create_study(sampler=sampler)  # in memory, minimizing
    study.add_trials(known)
    study.ask(dict(space))
    return study.trials[-1]
