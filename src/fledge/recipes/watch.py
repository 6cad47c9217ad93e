"""Follow a run from its folder, while another process trains it or afterwards."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.core.progress import notice
from fledge.runs.run_folder import CONFIG, RunFolder, open_whole_run, split_reference
from fledge.runs.status import RUNNING, last_saved_step, logged_metrics, run_state
from fledge.tracking.events import Event, Metrics, Sample, Started
from fledge.tracking.follow import EventFile, Poll, to_event
from fledge.tracking.run_progress import VAL_LOSS, RunProgress, describe_event
from fledge.tracking.sinks.csv import STEP

POLL_SECONDS = 0.25
GRACE_SECONDS = 1.5  # between the creation of a run and its first event, or from an unlocked run to its last one
DAMAGED = "damaged"
MOST_ROWS = 20_000  # of metrics.csv, where it stands for events.jsonl


class View(Protocol):
    """What shows the events. seen: before the file was rewritten, so that it is not shown twice."""

    def record(self, event: Event, at: float | None = None, *, seen: bool = False) -> None: ...

    def restart(self) -> None:
        """The events of the run begin anew."""


@dataclass(frozen=True)
class WatchResult:
    """The state of a run."""

    run: str
    folder: Path
    state: str  # running, finished, interrupted, failed, killed, imported or damaged
    step: int
    steps: int
    metrics: dict[str, float]  # the latest of each name
    best_step: int | None
    best: float | None  # loss or reward, of the evaluation at that step
    seconds_left: float | None
    rollbacks: int
    stopped_early: str | None  # where and why the run ended before its last step
    messages: list[str]  # the newest warnings and notices
    sample: str | None  # the latest one


def watch(run: RunFolder, view: View, *, follow: bool = True, whole: bool = False) -> WatchResult:
    """Show the events of a run, then those that come, until it ends.

    follow: False shows what there is. whole: also where there are so many that a view needs a part of them only.
    """
    tell_damage(run)
    events, progress, latest = EventFile(run.folder, whole=whole), RunProgress(), -math.inf
    since: float | None = None  # when the run was first found without a process that trains it
    while True:
        locked = run.is_locked()  # before reading, so that what is written until then is read
        poll = events.poll()
        if poll.restarted:
            progress = RunProgress()
            view.restart()
        known, shown = latest, 0
        for at, event in (*best_of_many(run, poll), *timed(poll)):
            progress.update(event, at)
            view.record(event, at, seen=poll.restarted and at <= known)
            latest, shown = max(latest, at), shown + 1
        since = None if locked or shown else since or time.monotonic()
        over = progress.ended is not None or (since is not None and time.monotonic() - since > GRACE_SECONDS)
        if not follow or (not locked and over):
            break
        time.sleep(POLL_SECONDS)
    if not progress.steps:
        for event in events_of_metrics(run):
            progress.update(event, 0.0)
            view.record(event, 0.0)
    return watch_result(run, progress)


def open_watched(reference: str | None, runs: Path) -> RunFolder:
    """Also a damaged run: what can be read of it is shown."""
    try:
        return open_whole_run(reference, runs)
    except UserError:
        name = split_reference(reference or "")[0]
        folders = [folder for folder in (runs / name, user_path(name or ".")) if folder.is_dir()]
        if name and folders and not any((folder / CONFIG).exists() for folder in folders):
            raise UserError(
                f"'{name}' is a folder without config.toml: no run, or a damaged one", "fledge runs lists the runs"
            ) from None
        raise


def tell_damage(run: RunFolder) -> None:
    """What is known of the run is shown all the same."""
    try:
        changed = run.changed_files()
    except UserError as error:  # it cannot be read, or a newer version has made it
        notice(f"warning: {error.message}")
    except (OSError, KeyError, AttributeError, TypeError):
        notice("warning: run.json is damaged")
    else:
        if changed:
            notice(f"warning: damaged, or edited since the run was created: {', '.join(changed)}")


def best_of_many(run: RunFolder, poll: Poll) -> Iterator[tuple[float, Event]]:
    """Where only a part of the events was read: the best evaluation, which may not be among them."""
    if poll.sampled:
        notice("many events: the curve is drawn from a part of them; fledge plot draws all")
        best = store.best_of(store.complete_checkpoints(run.checkpoints))
        if best is not None and best.val_loss is not None and best.val_loss > 0:  # below 0: minus a reward
            yield 0.0, Metrics(best.step, {VAL_LOSS: best.val_loss})


def timed(poll: Poll) -> Iterator[tuple[float, Event]]:
    """The events that this version knows, each with its time."""
    for record in poll.records:
        at = record.get("time")
        if (event := to_event(record)) is not None:
            yield float(at) if isinstance(at, int | float) else 0.0, event


def events_of_metrics(run: RunFolder) -> Iterator[Event]:
    """From metrics.csv, for a run whose events.jsonl is missing or damaged."""
    table = logged_metrics(run)
    if not table[STEP]:
        return
    notice("warning: events.jsonl is missing or damaged: only metrics.csv is shown")
    steps = table.last_step
    with contextlib.suppress(UserError):
        steps = run.last_step()
    yield Started(run.name, 0, steps, 0, "", "", False)
    for row in range(0, len(table[STEP]), 1 + len(table[STEP]) // MOST_ROWS):
        values = {name: column[row] for name, column in table.items() if name != STEP and math.isfinite(column[row])}
        yield Metrics(int(table[STEP][row]), values)


def watch_result(run: RunFolder, progress: RunProgress) -> WatchResult:
    best, latest = progress.best, progress.samples[-1] if progress.samples else None
    state = state_of(run, progress)
    return WatchResult(
        run=run.name,
        folder=run.folder,
        state=state,
        step=progress.step,
        steps=progress.steps,
        metrics=progress.metrics,
        best_step=best.step if best else None,
        best=best.value if best else None,
        seconds_left=progress.seconds_left() if state == RUNNING else None,
        rollbacks=progress.rollbacks,
        stopped_early=describe_event(progress.stopped_early) if progress.stopped_early else None,
        messages=[*progress.messages],
        sample=text_of(latest) if latest else None,
    )


def text_of(sample: Sample) -> str:
    return sample.prompt + sample.text


def state_of(run: RunFolder, progress: RunProgress) -> str:
    """From its files; where these are damaged, or of a newer version, from its events."""
    with contextlib.suppress(UserError, OSError):
        return run_state(run, last_saved_step(run), run.last_step())
    if run.is_locked():
        return RUNNING
    return progress.ended.reason if progress.ended else DAMAGED
