"""Runs: their list, curves, events and details; followed live; training started, stopped and resumed.

GET changes nothing. What starts or stops a process is a POST with a JSON body, which no page of another site can send.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from fledge.core.errors import UserError
from fledge.runs.run_folder import RunFolder, split_reference
from fledge.runs.summary import RunSummary
from fledge.settings.layers import preset_files
from fledge.studio.details import RunDetails, describe_run
from fledge.studio.events import end_of
from fledge.studio.follow import POLL_SECONDS, follower
from fledge.studio.listing import ListedRun, RunList
from fledge.studio.metrics import POINTS, Curve, curve_of, training_seconds
from fledge.studio.state import StudioState
from fledge.studio.training import Command, Job
from fledge.text.corpora import CORPORA
from fledge.tracking.metrics_table import Table
from fledge.tracking.sinks.csv import STEP
from fledge.training.config import Settings

router = APIRouter(prefix="/api/runs", tags=["runs"])

TOKENS = "train/tokens"
SECONDS = "seconds"


@dataclass(frozen=True)
class Curves:
    run: str
    rows: int  # of metrics.csv
    names: list[str]  # of all metrics that occur
    curves: dict[str, Curve]  # of those that were asked for
    clock: dict[str, Curve]  # step → tokens, step → seconds of training
    cursor: str  # where to follow from: /api/runs/follow


@dataclass(frozen=True)
class Events:
    run: str
    events: list[dict[str, Any]]


@dataclass(frozen=True)
class KnownSetting:
    name: str
    help: str
    default: str


@dataclass(frozen=True)
class FormChoices:
    presets: list[str]
    corpora: list[str]
    settings: list[KnownSetting]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TrainBody(Body):
    words: list[str] = Field(default=[], max_length=100)  # preset and text, as after `fledge train`
    settings: dict[str, str] = Field(default={}, max_length=200)  # optim.lr → "3e-4"
    minutes: str = ""
    name: str = ""
    init: str = ""  # a run to start from


class RunBody(Body):
    run: str


class ResumeBody(RunBody):
    steps: int | None = Field(default=None, ge=1)


@router.get("")
def list_runs(studio: StudioState) -> list[RunSummary]:
    """A summary of every run, oldest first: what `fledge.list_runs()` gives."""
    return studio.listing.summaries()


@router.get("/list")
def list_page(
    studio: StudioState, find: str = "", first: int = 0, count: Annotated[int, Query(le=1000)] = 50
) -> RunList:
    """One page of the list, the latest run first; also runs that cannot be read, with what is wrong."""
    return studio.listing.page(find, max(first, 0), max(count, 0))


@router.get("/entry")
def entry(studio: StudioState, run: str) -> ListedRun:
    """One run of the list."""
    return studio.listing.entry(studio.listing.find(run))


@router.get("/curves")
def curves(
    studio: StudioState,
    run: str,
    metric: Annotated[list[str], Query()] = [],  # noqa: B006
    low: float = -math.inf,
    high: float = math.inf,
    points: Annotated[int, Query(ge=8, le=20_000)] = POINTS,
    log: bool = False,
) -> Curves:
    """Curves between two steps. Each keeps about as many points as `points`, and every extreme; no `metric`: no curve.

    A null is a value that was measured and is not finite. `log`: the points are spread for a logarithmic axis.
    """
    folder = studio.listing.find(run)
    cursor = end_of(folder)  # before the curves: a row that is in both is drawn once, as its step is the same
    table = studio.metrics.table(folder)
    reduced = {name: curve_of(table, name, low, high, points, log=log) for name in metric if name in table.columns}
    return Curves(run, len(table.columns[STEP]), table.names, reduced, clocks(table), str(cursor))


def clocks(table: Table) -> dict[str, Curve]:
    found = {"tokens": curve_of(table, TOKENS, -math.inf, math.inf, 400)} if TOKENS in table.columns else {}
    if "train/step_seconds" in table.columns:
        timed = Table({STEP: table.columns[STEP], SECONDS: training_seconds(table)}, {SECONDS: table.measured[STEP]})
        found["seconds"] = curve_of(timed, SECONDS, -math.inf, math.inf, 400)
    return found


@router.get("/events")
def events(studio: StudioState, run: str) -> Events:
    """Everything of events.jsonl but the metrics: samples, checkpoints, anomalies, rollbacks, warnings, sessions."""
    return Events(run, studio.events.events(studio.listing.find(run))[0])


@router.get("/details")
def details(studio: StudioState, run: str) -> RunDetails:
    """Checkpoints, settings and what differs from the preset, plan and reality, versions and hashes."""
    folder = studio.listing.find(run)
    return describe_run(RunFolder(folder), studio.metrics.table(folder))


@router.get("/follow", response_class=EventSourceResponse)
async def follow(
    studio: StudioState,
    run: Annotated[list[str], Query(max_length=20)],
    after: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What happens in these runs, as server-sent events: `rows`, `events`, `state`, `reset`, `gone`.

    `after`: the cursor of /api/runs/curves, one for each run. A page that reconnects sends Last-Event-ID.
    """
    stream = follower(studio.listing, studio.training, run, after, last_event_id)
    yield stream.hello()
    while not studio.stopping.is_set():
        for message in await run_in_threadpool(stream.poll):
            yield message
        await asyncio.sleep(POLL_SECONDS)


@router.get("/choices")
def choices() -> FormChoices:
    """What a form offers: presets, named corpora, settings with their meaning."""
    settings = [
        KnownSetting(f"{section}.{each.name}", each.metadata.get("help", ""), str(each.default))
        for section, kind in get_type_hints(Settings).items()
        for each in fields(kind)
    ]
    return FormChoices([*preset_files()], [*CORPORA], settings)


@router.get("/jobs")
def jobs(studio: StudioState) -> list[Job]:
    """The processes that were started from this page, the newest first."""
    return studio.training.jobs()


@router.post("/check")
def check(studio: StudioState, body: TrainBody) -> Command:
    """The command that `train` would run, its settings checked as the command does. Nothing is started."""
    return studio.training.describe(*train_words(studio, body))


@router.post("/train")
def train(studio: StudioState, body: TrainBody) -> Command:
    """Start `fledge train` as a process of its own; it goes on when the studio ends."""
    return studio.training.start(*train_words(studio, body))


def train_words(studio: StudioState, body: TrainBody) -> tuple[str, list[str]]:
    return studio.training.train_words(body.words, body.settings, body.minutes.strip(), body.name.strip(), body.init)


@router.post("/resume")
def resume(studio: StudioState, body: ResumeBody) -> Command:
    """Start `fledge resume`; `steps`: a new length of the run."""
    name = studio.listing.name_of(studio.listing.find(body.run))
    return studio.training.start(name, studio.training.resume_words(name, body.steps))


@router.post("/stop")
def stop(studio: StudioState, body: RunBody) -> RunBody:
    """Ask the process that trains a run to save a checkpoint and end."""
    name = run_name(studio, body.run)
    studio.training.stop(name)
    return RunBody(run=name)


def run_name(studio: StudioState, run: str) -> str:
    """The name of a run of this folder, which may not have a file yet."""
    path = studio.listing.path(split_reference(run)[0])
    if path is None:
        raise UserError(f"'{run}' cannot be the name of a run", "choose one from the list of runs")
    return studio.listing.name_of(path)
