"""What a training run was asked for, and how long it may take: words, settings, --init and --minutes → settings.

resolve_request   words and settings → the settings, as far as they are given
fit_to_time       minutes → size, batch and steps, chosen by a forecast (recipes/plan.py)
announce          what will be trained, on which text, for how long
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fledge.core.config import Layer, merge
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.core.files import to_json
from fledge.core.formatting import counted, format_duration
from fledge.core.progress import notice
from fledge.datasets.description import describe_text
from fledge.datasets.shards import Dataset
from fledge.model.flops import parameter_count
from fledge.planning.budget import rounded_up
from fledge.planning.sized import sized_for_steps
from fledge.recipes.plan import PlanResult, plan
from fledge.runs.methods import refuse_reward_model
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import init_layer, validated
from fledge.settings.words import TEXT_PRESET, choose
from fledge.training.config import Settings
from fledge.training.init_from import InitialWeights, find_initial_weights
from fledge.training.setup import check_batch_divisible


@dataclass(frozen=True)
class TrainRequest:
    settings: Settings
    default_name: str  # of the run; numbered if it exists
    initial: InitialWeights | None = None
    base: Layer = field(default_factory=dict)  # the preset's settings, or those of the run that `initial` names
    overrides: Layer = field(default_factory=dict)
    minutes: float | None = None  # of a text without a preset, whose length nothing else gives
    expected: str | None = None  # time and loss, as forecast; "": not forecast; None: the size was given
    preset: str | None = None  # or settings file, that `base` comes from; None: from the run of `initial`
    forecast: dict[str, Any] | None = None  # that size and length were chosen by


def resolve_request(
    words: str | Sequence[str], overrides: Layer | None, runs: Path, init: str | None = None
) -> TrainRequest:
    choice = choose([words] if isinstance(words, str) else words, overrides, runs)
    minutes = choice.default_minutes if words or not init else None
    if init is not None:
        initial = find_initial_weights(init, runs)
        refuse_reward_model(initial.run)
        base = init_layer(initial.run, choice.preset, choice.overrides)
        name = choice.run_name if words else initial.run.name
    else:
        choice.refuse_empty("train")
        initial, name = None, choice.run_name
        base, _ = read_preset(choice.preset or TEXT_PRESET)
    settings = validated(base, choice.overrides)
    if settings.model.lora and init is None:
        raise UserError(
            "model.lora trains adapters beside the weights of a trained model, and there is none",
            "name it: --init RUN; or leave model.lora out",
        )
    if settings.model.value_head:
        raise UserError(
            "model.value_head has no use in pretraining",
            "leave it out: fledge align reward and fledge align ppo add one",
        )
    if "align" in base:
        raise UserError("these are the settings of an alignment run", f"use fledge align {base['align'].get('method')}")
    overrides, expected = choice.overrides, None
    if choice.is_text_alone and minutes is None and init is None:
        overrides, expected = sized_for_steps(base, overrides), ""
    preset = choice.preset or (None if initial else TEXT_PRESET)
    return TrainRequest(validated(base, overrides), name, initial, base, overrides, minutes, expected, preset)


def fit_to_time(
    request: TrainRequest, minutes: float | None, runs: Path, world: World, begun: float | None = None
) -> TrainRequest:
    """Choose size, batch and steps for these minutes, on the main process: a measurement differs between processes.

    begun: when the minutes began, on the clock time.perf_counter.
    """
    minutes = request.minutes if minutes is None else minutes
    if minutes is None:
        return request
    if "batch" in request.overrides.get("train", {}):
        check_batch_divisible(request.settings.train.batch, world)

    def choose_by_forecast() -> str:
        given: dict[str, Mapping[str, Any]] = {}
        if request.initial:  # only the steps are chosen
            batch = rounded_up(request.settings.train.batch, world.size)
            given = {"model": request.base["model"], "train": {"batch": batch}}
        overrides = merge(given, request.overrides)
        planned = plan(
            request.default_name,
            overrides,
            runs,
            seconds=60 * minutes,
            begun=begun,
            processes=world.size,
            base=request.base,
        )
        found = {"overrides": chosen_overrides(planned, request), "expected": describe_forecast(planned)}
        return to_json({**found, "forecast": asdict(planned.forecast)})

    answer: dict[str, Any] = json.loads(world.broadcast_from_main(choose_by_forecast))
    return replace(request, settings=validated(request.base, answer["overrides"]), **answer)


def chosen_overrides(planned: PlanResult, request: TrainRequest) -> Layer:
    if not request.initial:
        return planned.overrides
    return merge(request.overrides, {"train": planned.overrides["train"]})


def describe_forecast(planned: PlanResult) -> str:
    seconds, bits = planned.forecast.seconds, planned.forecast.bits_per_byte
    expected = "" if bits is None else f"; at its end {bits.low:.2f} to {bits.high:.2f} bits per byte"
    return f"about {format_duration(seconds)}{expected}"


def announce(settings: Settings, dataset: Dataset, expected: str | None) -> None:
    """Say on which text; where size and length were chosen, also what was chosen."""
    model, train = settings.model, settings.train
    notice(f"text      {describe_text(dataset)}")
    if expected is None:
        return
    bigrams = f", {model.bigram_rows * model.n_embd:,} of them in the bigram table" if model.bigram_rows else ""
    notice(
        f"model     {parameter_count(model):,} parameters{bigrams}; {counted(model.n_layer, 'block')},"
        f" width {model.n_embd}, a vocabulary of {counted(dataset.tokenizer.vocab_size, 'token')}"
    )
    if model.bigram_rows:
        notice("export    llama.cpp and transformers have no bigram table; for a model without one: --portable")
    length = f"{counted(train.steps, 'step')} of {train.batch} × {settings.train_context} tokens"
    notice(f"training  {length}{expected and ': '}{expected}")
