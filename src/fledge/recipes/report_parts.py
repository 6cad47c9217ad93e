"""Parts of a report: charts, samples, sessions, incidents, alignment, settings, commands."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from fledge.core.config import Layer, merge, to_layer
from fledge.datasets.config import TRAINING_ONLY, DataConfig
from fledge.recipes.align import ALIGN_SETTINGS, NO_EFFECT
from fledge.runs.config_diff import config_changes
from fledge.runs.names import path_word
from fledge.runs.run_folder import CONFIG, RunFolder
from fledge.settings.layers import preset_files, read_align_preset, read_preset, without_effect
from fledge.settings.pipeline import validated
from fledge.tracking.curves import Columns, visible_points
from fledge.tracking.events import (
    Anomaly,
    CompileChecked,
    Ended,
    Event,
    Notice,
    RolledBack,
    Sample,
    Started,
    StepsPlanned,
)
from fledge.tracking.follow import to_event
from fledge.tracking.panels import Curve, Panel, RunCurves, panels_of, shown_range
from fledge.tracking.report.data import Chart, ChartCurve, Incident, SampleText, Session, SettingChange
from fledge.tracking.run_progress import describe_event
from fledge.tracking.sinks.csv import STEP
from fledge.tracking.sinks.jsonl import read_events

Events = Sequence[dict[str, Any]]
POINTS = 480  # of a curve in a chart
MOST_SAMPLES = 8
MOST_INCIDENTS = 200
WARNING, AGAIN = "warning: ", "started again"


def events_of(run: RunFolder) -> Events:
    """All but the metrics, oldest first; a file of a million rows is read once."""
    kinds = (Started, Ended, Sample, Anomaly, RolledBack, Notice, CompileChecked, StepsPlanned)
    return list(read_events(run.folder, *kinds))


def _of(events: Events, *kinds: type[Event]) -> Iterator[dict[str, Any]]:
    names = [kind.__name__ for kind in kinds]
    return (event for event in events if event["event"] in names)


def charts_of(run: RunFolder, columns: Columns, events: Events) -> list[Chart]:
    steps = columns[STEP]
    if not len(steps):
        return []
    marks = [float(event["step"]) for event in _of(events, RolledBack)]
    return [_chart(panel, marks) for panel in panels_of([RunCurves(run.name, columns, steps)])]


def _chart(panel: Panel, marks: list[float]) -> Chart:
    curves = [_chart_curve(curve, panel.name) for curve in panel.curves]
    low, high = shown_range(panel)
    return Chart(panel.name, panel.label, "step", curves, low, high, panel.layers, marks)


def _chart_curve(curve: Curve, panel: str) -> ChartCurve:
    seen = visible_points(curve.x, curve.y, POINTS)
    best = curve.best(panel)
    if best is not None and best not in seen:
        seen = np.sort(np.append(seen, best))
    margin = None if curve.margin is None else [_finite(value) for value in curve.margin[seen]]
    place = None if best is None else int(np.searchsorted(seen, best))
    return ChartCurve(
        curve.metric, curve.label, curve.kind, curve.x[seen].tolist(), curve.y[seen].tolist(), margin, place
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def samples_of(events: Events) -> list[SampleText]:
    """At most `MOST_SAMPLES`, spread over the run; the first and the last among them."""
    found = [
        SampleText(event["step"], str(event["prompt"]), str(event["text"]), _number(event.get("reward")))
        for event in _of(events, Sample)
    ]
    count = min(MOST_SAMPLES, len(found))
    return [found[round(n * (len(found) - 1) / max(1, count - 1))] for n in range(count)]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def sessions_of(events: Events, state: str) -> list[Session]:
    """The processes that trained the run, oldest first. A rollback starts again within its process."""
    sessions: list[Session] = []
    for event in _of(events, Started, Ended, RolledBack):
        if event["event"] == Started.__name__:
            sessions.append(Session(_number(event.get("time")), event["step"], None, "killed", None, None))
        elif event["event"] == RolledBack.__name__:
            if len(sessions) > 1 and sessions[-2].last_step is None:
                sessions.pop()
        elif sessions:
            memory, seconds = event.get("peak_memory"), _number(event["seconds"])
            ended = {"last_step": event["step"], "reason": str(event["reason"]), "seconds": seconds}
            sessions[-1] = replace(sessions[-1], **ended, peak_memory=memory if isinstance(memory, int) else None)
    if sessions and sessions[-1].last_step is None and state == "running":
        sessions[-1] = replace(sessions[-1], reason="running")
    return sessions


def incidents_of(events: Events) -> list[Incident]:
    """What did not go as usual: anomalies, rollbacks, warnings, resumes. At most `MOST_INCIDENTS`."""
    found: list[Incident] = []
    for event in _of(events, Anomaly, RolledBack, Notice, CompileChecked, Started, StepsPlanned):
        new = _incident(event)
        if new is None:
            continue
        before = found[-1] if found else None
        if before and (before.kind, before.text) == (new.kind, new.text) and new.step > before.step:
            found[-1] = replace(before, last_step=new.step)
            continue
        if new.kind == "rollback":  # it starts the training again itself
            found = [each for each in found if (each.kind, each.step) != (AGAIN, new.step)]
        found.append(new)
    return found[:MOST_INCIDENTS]


def _incident(event: Mapping[str, Any]) -> Incident | None:
    kind, step = event["event"], event["step"]
    if kind == Anomaly.__name__:
        first, last = event["samples"]
        where = f", first at {event['origin']}" if event["origin"] else ""
        numbers = f"loss {_short(event['loss'])}, gradient norm {_short(event['grad_norm'])}"
        return Incident(step, "anomaly", f"{event['reason']}{where}; {numbers}; samples {first} to {last}")
    if kind == RolledBack.__name__:
        first, last = event["skipped_batches"]
        left_out = f"batches {first} to {last} were left out"
        return Incident(step, "rollback", f"from step {event['failed_step']}: {event['reason']}; {left_out}")
    if kind == Notice.__name__ and str(event["text"]).startswith(WARNING):
        return Incident(step, "warning", str(event["text"]).removeprefix(WARNING))
    if kind == CompileChecked.__name__ and not event["ok"]:
        return Incident(step, "warning", f"compiled code was not used: {event['reason']}")
    if isinstance(planned := to_event(event), StepsPlanned) and (text := describe_event(planned)):
        return Incident(step, "length", text)
    if kind == Started.__name__ and step > 0:
        return Incident(step, AGAIN, f"training continued from step {step}")
    return None


def _short(value: object) -> str:
    number = _number(value)
    return str(value) if number is None else f"{number:.4g}"


def alignment_of(config: Layer, metadata: Mapping[str, Any], columns: Columns) -> dict[str, Any] | None:
    """The method, its data, rewards and reference, and how its numbers moved. None: pretraining."""
    align = config.get("align")
    if align is None:
        return None
    measured = {name: values[np.isfinite(values)] for name, values in columns.items() if _is_of_alignment(name)}
    moved = {name: {"first": float(v[0]), "last": float(v[-1])} for name, v in measured.items() if len(v)}
    method = str(align.get("method", ""))
    weights = align.get("reward_weights") or [1.0] * len(align.get("reward", ()))
    return {
        "method": method,
        "init": align.get("init"),
        "init_sha256": metadata.get("init_sha256"),
        "data": list(align.get("data", ())),
        "rewards": dict(zip(align.get("reward", ()), weights, strict=False)),
        "reward_sha256": metadata.get("reward_sha256") or {},
        "settings": {**config.get("rollout", {}), **config.get(method, {})},
        "metrics": moved,
    }


def _is_of_alignment(name: str) -> bool:
    group, _, metric = name.partition("/")
    return bool(metric) and group not in ("train", "time", "stats") and not metric.endswith(("_error", "seconds"))


def setting_changes(config: Layer, preset: str | None) -> list[SettingChange]:
    """How the settings of a run differ from those of its preset; [] where the preset is not known."""
    if "align" in config:
        own = {name: config[name] for name in ("model", "align")}
        before = to_layer(validated(merge(read_align_preset(str(config["align"]["method"])), own)))
    elif preset in preset_files():
        settings = validated(read_preset(str(preset))[0])
        before = to_layer(settings, omit=without_effect(settings))
    else:
        return []
    changes = config_changes(before, config)
    return [
        SettingChange(each.name, each.before, each.after)
        for each in changes
        if each.after is not None and not (each.before in ((), []) and each.after == [])
    ]


def reproduce_commands(
    run: RunFolder, config: Layer, metadata: Mapping[str, Any], data: Mapping[str, Any]
) -> list[str]:
    """The commands that train this run again, under another name."""
    commands = []
    if (commit := metadata.get("commit")) and re.fullmatch("[0-9a-f]{7,64}", str(commit)):
        commands.append(f"git checkout {commit}")
    if torch := metadata.get("torch"):
        commands.append(f"pip install {shlex.quote(f'torch=={torch}')}")
    if "imported" in metadata or not config:
        return []
    again = shlex.quote(f"{run.name.replace('/', '-')}-again")
    if "align" in config:
        return [*commands, f"{align_command(config)} --run {again}"]
    words = [] if data.get("splits") else text_words(config)
    words += ["--init", str(metadata["init"])] if metadata.get("init") else []
    return [
        *commands,
        " ".join([f"fledge train {path_word(run.folder)}/{CONFIG}", *map(shlex.quote, words)]) + f" --run {again}",
    ]


def text_words(config: Layer) -> list[str]:
    """The text of a run whose dataset is gone, and how it was read; [] where that is not known."""
    data = config.get("data", {})
    corpus = data.get("corpus")
    if corpus is None:
        return []
    words = [corpus] if isinstance(corpus, str) else list(corpus)
    for field in fields(DataConfig):
        value = data.get(field.name, field.default)
        if field.name not in ("corpus", *TRAINING_ONLY) and value != field.default:
            words += [f"--data.{field.name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def align_command(config: Layer) -> str:
    """`fledge align` with every setting that differs from the preset of the method."""
    align = config["align"]
    words = ["fledge", "align", str(align["method"]), "--init", str(align["init"])]
    for source in align.get("data", ()):
        words += ["--data", str(source)]
    weights = align.get("reward_weights") or []
    for number, reward in enumerate(align.get("reward", ())):
        weight = f"={weights[number]:g}" if number < len(weights) and weights[number] != 1 else ""
        words += ["--reward", f"{reward}{weight}"]
    settable = [f"align.{name}" for name in ALIGN_SETTINGS]
    for change in setting_changes(config, None):
        section = change.name.partition(".")[0]
        own = section not in ("model", "align", "data", "tokenizer") or change.name in settable
        if own and change.name not in NO_EFFECT:
            value = change.run
            words += [f"--{change.name}", json.dumps(value) if isinstance(value, list | bool) else str(value)]
    if lora := config["model"].get("lora"):
        words += ["--lora", str(lora)]
    return shlex.join(words)
