"""Those who write down what happens: CSV, JSON lines, a page of samples, TensorBoard, Weights & Biases.

The files of a run must be exact, or it could not be gone on with: one that cannot be written ends the training, with an
error that names it. Any other sink that fails is taken out with one warning, and training goes on.
"""

import contextlib
import csv
import dataclasses
import hashlib
import importlib
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args, runtime_checkable

from fledge.core.errors import UserError, from_os_error
from fledge.core.files import naming_errors, to_json, write_atomic
from fledge.tracking.events import Evaluated, Event, Notice, Sampled, Stepped

METRICS = "metrics.csv"
EVENTS = "events.jsonl"
SAMPLES = "samples.md"
RECORDS = (METRICS, EVENTS, SAMPLES)
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
# What an event always tells, by its name; what has a default came later.
SCALARS = {
    kind.__name__: {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    for kind in get_args(Event)
}


class Sink(Protocol):
    def record(self, event: Event) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class NamedSink(Protocol):
    name: str  # what a person calls this sink


class TrackerSink:
    """One event in, all sinks told."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def record(self, event: Event) -> None:
        for failure in self._tell(lambda sink: sink.record(event)):
            warn(failure)
            self.record(Notice(event.step, failure))

    def close(self) -> None:
        for failure in self._tell(lambda sink: sink.close()):
            warn(failure)

    def _tell(self, act: Callable[[Sink], None]) -> list[str]:
        """All of them, whatever one of them does."""
        failures: list[str] = []
        unwritten: UserError | None = None
        for sink in list(self._sinks):
            try:
                act(sink)
            except UserError as error:
                unwritten = error
            except (Exception, SystemExit) as error:  # rich would end the program when its reader goes away
                self._sinks.remove(sink)
                name = sink.name if isinstance(sink, NamedSink) else type(sink).__name__
                failures.append(f"{name} failed and is switched off: {error}")
        if unwritten:
            raise unwritten
        return failures


def warn(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        print(f"warning: {text}", file=sys.stderr)


class ExactFile:
    """A file of the run that grows. When `write` returns, the system has the text; else an error names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a", encoding="utf-8", newline="")

    def write(self, text: str) -> None:
        with self._exactly():
            self._file.write(text)
            self._file.flush()

    def close(self) -> None:
        with self._exactly():
            self._file.close()

    @contextlib.contextmanager
    def _exactly(self) -> Iterator[None]:
        try:
            with naming_errors(self._path):
                yield
        except OSError as error:
            raise from_os_error(error) from error


class CSVSink:
    """A row for every logged step; what an evaluation found joins the row of its step."""

    def __init__(self, folder: Path) -> None:
        path = folder / METRICS
        new = not path.exists() or not path.stat().st_size
        self._file = ExactFile(path)
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
        self._found = {}

    def close(self) -> None:
        self._file.close()


class JSONLSink:
    """Everything, one JSON object a line: {"event": "Stepped", "time": …, …}."""

    def __init__(self, folder: Path) -> None:
        self._file = ExactFile(folder / EVENTS)

    def record(self, event: Event) -> None:
        line = {"event": type(event).__name__, "time": round(time.time(), 3), **dataclasses.asdict(event)}
        self._file.write(to_json(line) + "\n")

    def close(self) -> None:
        self._file.close()


class SamplesSink:
    """What the model wrote on its way, as a page to read."""

    def __init__(self, folder: Path) -> None:
        self._file = ExactFile(folder / SAMPLES)

    def record(self, event: Event) -> None:
        if isinstance(event, Sampled):
            self._file.write(sample_in_words(event.step, event.prompt + event.text))

    def close(self) -> None:
        self._file.close()


def sample_in_words(step: int, text: str) -> str:
    """A heading, and the text between fences longer than any it may hold itself."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"## Step {step}\n\n{fence}\n{text}\n{fence}\n\n"


class TensorBoardSink:
    def __init__(self, folder: Path, reached: int = 0) -> None:
        need("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # What an earlier process told of later steps is taken back: they will come again.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=reached + 1 if reached else None)

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
            project=project, name=folder.name, dir=str(folder), config=config, id=_own_id(folder), resume="allow"
        )

    def record(self, event: Event) -> None:
        if values := scalars(event):
            self._run.log(values, step=event.step)

    def close(self) -> None:
        self._run.finish()


def _own_id(folder: Path) -> str:
    """The same for a run that goes on, another for a run of the same name elsewhere."""
    return f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


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


def rewind(folder: Path, step: int, spare: tuple[type[Event], ...] = ()) -> None:
    """Take back what was written after `step`: a run that goes on from there will write it again.

    But for events of the kinds in `spare`: they happened, and will not happen again.
    """
    spared = {kind.__name__ for kind in spare}
    if (metrics := folder / METRICS).exists():
        _keep_lines(metrics, lambda line: _step(line) <= step)
    if (events := folder / EVENTS).exists():
        _keep_lines(events, lambda line: _moment(line, spared) <= step)
    if (folder / SAMPLES).exists():  # written anew from the events: a model may write headings and fences of its own
        told = (event for event in read_events(folder) if event["event"] == "Sampled")
        page = [sample_in_words(event["step"], event["prompt"] + event["text"]) for event in told]
        write_atomic(folder / SAMPLES, "".join(page))


def _step(row: str) -> float:
    """Of a row of metrics.csv; what is no row comes after everything."""
    first = row.partition(",")[0]
    try:
        return -math.inf if first == COLUMNS[0] else float(first)
    except ValueError:
        return math.inf


def _moment(line: str, spared: set[str]) -> float:
    if (event := _event(line)) is None:
        return math.inf  # half a line: the process died while writing it
    if event["event"] in spared:
        return -math.inf
    return float(event["step"]) + (event["event"] == "RolledBack") / 2  # after the checkpoint of its step was made


def _event(line: str) -> dict[str, Any] | None:
    """What a line of events.jsonl tells; nothing where it is not whole."""
    try:
        event = json.loads(line)
        whole = SCALARS.get(event["event"], set()) <= event.keys() and isinstance(event["step"], int)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return event if whole else None


def _lines(path: Path) -> list[str]:
    """Lines end at a newline and nowhere else, whatever a sample contains."""
    return [line + "\n" for line in path.read_bytes().decode("utf-8", "replace").split("\n")[:-1]]


def _keep_lines(path: Path, keep: Callable[[str], bool]) -> None:
    write_atomic(path, "".join(line for line in _lines(path) if keep(line)))


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """events.jsonl, oldest first. Works while the run is alive: what is no whole line is left out."""
    with contextlib.suppress(FileNotFoundError):
        for line in _lines(folder / EVENTS):
            if (event := _event(line)) is not None:
                yield event


def read_metrics(folder: Path) -> dict[str, list[float]]:
    """metrics.csv as columns; what a row does not tell is NaN. Works while the run is alive."""
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    if not (folder / METRICS).exists():
        raise UserError(f"'{folder}' holds no {METRICS}", "give the folder of a run; 'fledge runs' lists them")
    with (folder / METRICS).open(newline="", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                values = [float("nan" if row[name] == "" else row[name]) for name in COLUMNS]
            except (KeyError, TypeError, ValueError):
                continue  # a line that is still being written, or damaged
            for name, value in zip(COLUMNS, values, strict=True):
                columns[name].append(value)
    return columns
