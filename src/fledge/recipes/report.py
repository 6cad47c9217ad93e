"""Gather all that is known of a run, and write it as one page: report.html and the same in Markdown.

    gather_report(run) → Report (tracking/report/data.py) → render_html, render_markdown

Every part is gathered alone: what is missing or damaged becomes a sentence in the report, and the rest still stands.
Nothing is computed with the model, and no file of the dataset is read but its dataset.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.core.files import read_json, sha256, write_atomic
from fledge.datasets.shards import MANIFEST
from fledge.model.flops import parameter_count, training_flops
from fledge.planning.backtest import compare
from fledge.recipes.report_parts import (
    alignment_of,
    charts_of,
    events_of,
    incidents_of,
    reproduce_commands,
    samples_of,
    sessions_of,
    setting_changes,
)
from fledge.runs.evaluations import read_evaluations
from fledge.runs.methods import method_of
from fledge.runs.run_folder import CONFIG, HASHES, METADATA, RunFolder, open_whole_run
from fledge.runs.status import best_result, last_saved_step, run_state, stopped_early
from fledge.runs.summary import trained_on
from fledge.tracking.curves import Columns, read_columns
from fledge.tracking.report.data import Report, SavedCheckpoint
from fledge.tracking.report.html import render_html
from fledge.tracking.report.markdown import render_markdown
from fledge.tracking.sinks.csv import METRICS, STEP, MetricsTable

HTML, MARKDOWN = "report.html", "report.md"
ENVIRONMENT = ("fledge", "commit", "python", "torch", "system")
T = TypeVar("T")


@dataclass(frozen=True)
class ReportResult:
    html: Path
    markdown: Path
    report: Report


def report(name: str | None, runs: Path, out: Path | None = None) -> ReportResult:
    """Write the report of a run (None: the latest run): report.html and report.md in its folder.

    out: the HTML file, or a folder; the Markdown file stands beside it.
    """
    run = open_whole_run(name, runs)
    html = run.folder / HTML if out is None else out if out.suffix.lower() in (".html", ".htm") else out / HTML
    gathered = gather_report(run)
    html.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(html, render_html(gathered))
    write_atomic(html.with_suffix(".md"), render_markdown(gathered))
    return ReportResult(html, html.with_suffix(".md"), gathered)


@dataclass
class _Parts:
    """Gathers parts that may fail: what is missing or damaged is listed in `problems`."""

    problems: list[str] = field(default_factory=list)

    def get(self, what: str, gather: Callable[[], T], otherwise: Any) -> T:
        try:
            return gather()
        except UserError as error:
            self.problems.append(f"{what}: {error.message}")
        except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
            self.problems.append(f"{what}: it cannot be read ({type(error).__name__}: {error})")
        return cast(T, otherwise)


def gather_report(run: RunFolder) -> Report:
    parts = _Parts()
    config: Mapping[str, Mapping[str, Any]] = parts.get("the settings", run.config, {})
    metadata: Mapping[str, Any] = parts.get("the run's metadata", run.metadata, {})
    columns = _columns(run, parts)
    table = MetricsTable({name: values.tolist() for name, values in columns.items()})
    events = parts.get("the events", lambda: events_of(run), [])
    imported = "imported" in metadata
    if metadata:
        for name in parts.get("the hashes of the run's files", run.changed_files, []):
            parts.problems.append(f"'{name}' was edited, or is damaged, since the run was created")
    steps = parts.get("the length", lambda: run.last_step(config), 0) if config.get("train") else 0
    state = parts.get("the state", lambda: run_state(run, last_saved_step(run), steps), "unknown")
    sessions = parts.get("the events", lambda: sessions_of(events, state), [])
    data = parts.get("the dataset", lambda: _data(run, config, metadata, parts), {})
    preset = metadata.get("preset") if isinstance(metadata.get("preset"), str) else None
    return Report(
        run=run.name,
        state=state,
        method=parts.get("the method", lambda: method_of(run), "pretrain"),
        started=str(metadata.get("started", "")),
        model=parts.get("the model", lambda: _model(run), {}),
        result=parts.get("the result", lambda: vars(best_result(run, table)), {}),
        training={}
        if imported
        else parts.get("the training", lambda: _training(run, steps, config, columns, sessions), {}),
        machine=_machine(metadata),
        data=data,
        sessions=sessions,
        plan=parts.get("the plan", lambda: _plan(run, metadata, table), {}),
        charts=parts.get("the curves", lambda: charts_of(run, columns, events), []),
        samples=parts.get("the samples", lambda: samples_of(events), []),
        evaluations=parts.get("the evaluations", lambda: read_evaluations(run), []),
        alignment=parts.get("the alignment", lambda: alignment_of(config, metadata, columns), None),
        preset=preset,
        changes=[] if imported else parts.get("the preset", lambda: setting_changes(config, preset), []),
        configuration=config,
        incidents=parts.get("the events", lambda: incidents_of(events), []),
        checkpoints=parts.get("the checkpoints", lambda: _checkpoints(run, parts), []),
        environment={name: metadata[name] for name in ENVIRONMENT if metadata.get(name)},
        hashes=parts.get("the hashes", lambda: _hashes(run, metadata), {}),
        reproduce=parts.get("the commands", lambda: reproduce_commands(run, config, metadata, data), []),
        problems=list(dict.fromkeys(parts.problems)),
    )


def _columns(run: RunFolder, parts: _Parts) -> Columns:
    if not (run.folder / METRICS).exists():
        return {STEP: np.array([])}
    return parts.get("the metrics", lambda: read_columns(run.folder), {STEP: np.array([])})


def _model(run: RunFolder) -> dict[str, Any]:
    config = run.model_config()
    sizes = ("n_layer", "n_head", "n_kv_head", "n_embd", "context", "vocab_size")
    names = (*sizes, "block", "final_norm", "positions", "norm", "mlp", "tied")
    shape = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
    return {
        "parameters": parameter_count(config),
        **shape,
        "lora": config.lora,
        "flops_per_token": training_flops(config),
    }


def _training(
    run: RunFolder, steps: int, config: Mapping[str, Any], columns: Columns, sessions: list[Any]
) -> dict[str, Any]:
    train = config.get("train", {})

    def last(name: str) -> float | None:
        values = columns.get(name, np.array([]))
        values = values[np.isfinite(values)]
        return float(values[-1]) if len(values) else None

    speeds = columns.get("train/tokens_per_second", np.array([]))
    speeds = speeds[np.isfinite(speeds)]
    seconds = [each.seconds for each in sessions if each.seconds is not None]
    return {
        "step": int(columns[STEP].max()) if len(columns[STEP]) else 0,
        "saved_step": last_saved_step(run),
        "steps": steps,
        "stopped_early": stopped_early(run),
        "tokens": last("train/tokens"),
        "epochs": last("train/epoch"),
        "batch": train.get("batch"),
        "seed": train.get("seed"),
        "seconds": sum(seconds) if seconds and len(seconds) == len(sessions) else None,
        "tokens_per_second": float(np.median(speeds)) if len(speeds) else None,
        "peak_memory": max((each.peak_memory or 0 for each in sessions), default=0) or None,
        "train_loss": last("train/loss"),
    }


def _machine(metadata: Mapping[str, Any]) -> dict[str, Any]:
    machine = metadata.get("machine")
    known = {name: metadata[name] for name in ("processor", "cores") if name in metadata}
    return known | (dict(machine) if isinstance(machine, Mapping) else {})


def _data(
    run: RunFolder, config: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Any], parts: _Parts
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": trained_on(run, config) if config else "",
        "sha256": metadata.get("dataset_sha256"),
    }
    found["tokenizer"] = {**config.get("tokenizer", {}), **parts.get("the tokenizer", lambda: _tokenizer(run), {})}
    place = metadata.get("dataset")
    if not isinstance(place, str):
        return found
    found["folder"] = place
    if not (Path(place) / MANIFEST).exists():
        parts.problems.append(f"the dataset is no longer at '{place}'")
        return found
    manifest = read_json(Path(place) / MANIFEST, "the dataset's manifest")
    splits = manifest.get("splits", {}).items()
    found["splits"] = {
        name: {key: each.get(key, 0) for key in ("tokens", "documents", "bytes")}
        for name, each in splits
        if each.get("tokens")
    }
    return found


def _tokenizer(run: RunFolder) -> dict[str, Any]:
    """The settings tell only how to train one: a prepared dataset has its own."""
    tokenizer = run.tokenizer()
    return {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size}


def _plan(run: RunFolder, metadata: Mapping[str, Any], table: MetricsTable) -> dict[str, dict[str, float | None]]:
    forecast = metadata.get("forecast")
    if not isinstance(forecast, Mapping):
        return {}
    return compare(forecast, run, table)


def _checkpoints(run: RunFolder, parts: _Parts) -> list[SavedCheckpoint]:
    """The newest first. Their files are not verified: that would read all of them."""
    complete = {each.folder: each for each in store.complete_checkpoints(run.checkpoints)}
    best = store.best_of(list(complete.values()))
    found = []
    for folder in reversed(store.checkpoint_folders(run.checkpoints)):
        if (each := complete.get(folder)) is None:
            parts.problems.append(f"the checkpoint '{folder.name}' is damaged: its manifest cannot be read")
            continue
        files = store.read_manifest(folder)["files"]
        model = next((value for name, value in files.items() if name.startswith("model")), None)
        is_best = best is not None and each.step == best.step
        found.append(SavedCheckpoint(each.step, each.val_loss, is_best, each.weights_only, model))
    return found


def _hashes(run: RunFolder, metadata: Mapping[str, Any]) -> dict[str, str]:
    named = {"dataset": "dataset_sha256", "tokenizer": "tokenizer_sha256", "initial weights": "init_sha256"}
    found = {name: metadata.get(key) for name, key in named.items()}
    found |= metadata.get(HASHES, {})
    found |= {METADATA: sha256(run.folder / METADATA)} if metadata else {}
    if not metadata.get(HASHES):
        found[CONFIG] = sha256(run.folder / CONFIG)
    return {name: value for name, value in found.items() if isinstance(value, str)}
