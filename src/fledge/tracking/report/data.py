"""What a report is made of: plain values that a recipe has gathered from a run folder. None: not known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ChartCurve:
    metric: str
    label: str
    kind: str  # training, evaluation or whole
    x: list[float]
    y: list[float]
    margin: list[float | None] | None  # half of the 95 % interval
    best: int | None  # index


@dataclass(frozen=True)
class Chart:
    name: str
    label: str  # of the y axis
    x_label: str
    curves: list[ChartCurve]
    low: float  # the range that is shown; the first values may lie above it
    high: float
    layers: bool  # a curve for each layer
    marks: list[float]  # where the run went back to a checkpoint


@dataclass(frozen=True)
class SampleText:
    step: int
    prompt: str
    text: str
    reward: float | None


@dataclass(frozen=True)
class Session:
    """One process that trained the run."""

    started: float | None  # seconds since 1970
    first_step: int
    last_step: int | None  # None: killed, or still training
    reason: str  # finished, interrupted, failed, killed or running
    seconds: float | None
    peak_memory: int | None


@dataclass(frozen=True)
class Incident:
    step: int
    kind: str  # anomaly, rollback, warning, length or started again
    text: str
    last_step: int | None = None  # where it was said again and again


@dataclass(frozen=True)
class SavedCheckpoint:
    step: int
    val_loss: float | None
    best: bool
    weights_only: bool
    model_sha256: str | None


@dataclass(frozen=True)
class SettingChange:
    name: str
    preset: Any
    run: Any


@dataclass(frozen=True)
class Report:
    run: str
    state: str  # running, finished, interrupted, failed, killed, imported or unknown
    method: str
    started: str
    model: Row
    result: Row
    training: Row
    machine: Row
    data: Row
    sessions: list[Session]
    plan: Mapping[str, Mapping[str, float | None]]  # quantity → predicted, measured, difference_percent
    charts: list[Chart]
    samples: list[SampleText]
    evaluations: Sequence[Row]
    alignment: Row | None
    preset: str | None
    changes: list[SettingChange]
    configuration: Mapping[str, Row]
    incidents: list[Incident]
    checkpoints: list[SavedCheckpoint]
    environment: Row
    hashes: Mapping[str, str]
    reproduce: list[str]  # commands
    problems: list[str]  # what is missing or damaged, in words
