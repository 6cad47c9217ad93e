"""Those who write down what happens: CSV, JSON lines, a page of samples, TensorBoard, Weights & Biases.

A sink that fails is taken out with one warning; training goes on.
"""

import csv
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fledge.base.errors import UserError
from fledge.track.events import Evaluated, Event, Noted, Sampled, Stepped

METRICS = "metrics.csv"
EVENTS = "events.jsonl"
SAMPLES = "samples.md"
COLUMNS = (
    "step",
    "tokens",
    "train_loss",
    "val_loss",
    "val_bits_per_byte",
    "val_accuracy",
    "lr",
    "grad_norm",
    "step_seconds",
    "tokens_per_second",
)


class Sink(Protocol):
    def record(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """One event in, all sinks told."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def record(self, event: Event) -> None:
        self._tell(lambda sink: sink.record(event))

    def close(self) -> None:
        self._tell(lambda sink: sink.close())

    def _tell(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:
                self._sinks.remove(sink)
                text = f"{type(sink).__name__} failed and is switched off: {error}"
                print(f"warning: {text}", file=sys.stderr)
                self.record(Noted(0, text))


class CSVSink:
    """A row for every logged step; what an evaluation found joins the row of its step."""

    def __init__(self, folder: Path) -> None:
        path = folder / METRICS
        new = not path.exists() or not path.stat().st_size
        self._file = path.open("a", newline="")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._found: dict[str, Any] = {}
        if new:
            self._rows.writeheader()

    def record(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            self._found = {
                "step": event.step,
                "val_loss": event.loss,
                "val_bits_per_byte": event.bits_per_byte,
                "val_accuracy": event.accuracy,
            }
            if event.step == 0:  # before the first step there is no step to join
                self._write({})
        elif isinstance(event, Stepped):
            row = dataclasses.asdict(event)
            row["train_loss"] = row.pop("loss")
            self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        found = self._found if self._found.get("step") == row.get("step", 0) else {}
        self._rows.writerow({**found, **row})
        self._file.flush()
        self._found = {}

    def close(self) -> None:
        self._file.close()


class JSONLSink:
    """Everything, one JSON object a line: {"event": "Stepped", "time": …, …}."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / EVENTS).open("a")

    def record(self, event: Event) -> None:
        line = {"event": type(event).__name__, "time": round(time.time(), 3), **dataclasses.asdict(event)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class SamplesSink:
    """What the model wrote on its way, as a page to read."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / SAMPLES).open("a", encoding="utf-8")

    def record(self, event: Event) -> None:
        if isinstance(event, Sampled):
            fence = "````"
            self._file.write(f"## Step {event.step}\n\n{fence}\n{event.prompt}{event.text}\n{fence}\n\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoardSink:
    def __init__(self, folder: Path) -> None:
        need("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def record(self, event: Event) -> None:
        for name, value in scalars(event).items():
            self._writer.add_scalar(name, value, event.step)
        if isinstance(event, Sampled):
            self._writer.add_text("sample", event.prompt + event.text, event.step)

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """Weights & Biases; its own WANDB_MODE=offline works without a network."""

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        wandb: Any = need("wandb")
        self._run = wandb.init(
            project=project, name=folder.name, dir=str(folder), config=config, id=folder.name, resume="allow"
        )

    def record(self, event: Event) -> None:
        if values := scalars(event):
            self._run.log(values, step=event.step)

    def close(self) -> None:
        self._run.finish()


def need(package: str) -> Any:
    """An optional package, or a word on how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"track.{package} needs the package '{package}'", f"pip install 'fledge[{package}]'") from None


def scalars(event: Event) -> dict[str, float]:
    """The curves of an event, under the names that dashboards group by."""
    if isinstance(event, Stepped):
        return {
            "train/loss": event.loss,
            "train/lr": event.lr,
            "train/grad_norm": event.grad_norm,
            "speed/step_seconds": event.step_seconds,
            "speed/tokens_per_second": event.tokens_per_second,
        }
    if isinstance(event, Evaluated):
        return {
            "val/loss": event.loss,
            "val/bits_per_byte": event.bits_per_byte,
            "val/accuracy": event.accuracy,
        }
    return {}


def rewind(folder: Path, step: int) -> None:
    """Take back what was written after `step`: a run that goes on from there will write it again."""
    if (metrics := folder / METRICS).exists():
        _keep_lines(metrics, lambda line: not line[:1].isdigit() or int(line.partition(",")[0]) <= step)
    if (events := folder / EVENTS).exists():
        _keep_lines(events, lambda line: _step_of(line) <= step)
    if (samples := folder / SAMPLES).exists():
        text = samples.read_text(encoding="utf-8")
        parts = text.split("## Step ")
        kept = [p for p in parts[1:] if p.partition("\n")[0].isdigit() and int(p.partition("\n")[0]) <= step]
        samples.write_text("".join(["", *[f"## Step {p}" for p in kept]]), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # half a line: the process died while writing it


def _keep_lines(path: Path, keep: Callable[[str], bool]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n") and keep(line)]
    path.write_text("".join(whole), encoding="utf-8")


def read_metrics(folder: Path) -> dict[str, list[float]]:
    """metrics.csv as columns; what a row does not tell is NaN. Works while the run is alive."""
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    if not (folder / METRICS).exists():
        raise UserError(f"'{folder}' holds no {METRICS}", "give the folder of a run; 'fledge runs' lists them")
    with (folder / METRICS).open(newline="") as file:
        for row in csv.DictReader(file):
            if any(row.get(name) is None for name in COLUMNS):
                continue  # a line that is still being written
            for name in COLUMNS:
                columns[name].append(float(row[name] or "nan"))
    return columns
