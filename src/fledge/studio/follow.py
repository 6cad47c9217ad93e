"""What happens in runs, as server-sent events: new rows of metrics, other events, and the state of each run.

    rows    {"run", "rows": [{"step", "values"}]}     also of a step that the page knows: values of it are added
    events  {"run", "events": [{"event", "step", …}]} samples, checkpoints, anomalies, notices
    reset   {"run"}                                   rolled back, or resumed from an earlier step: load it again
    state   {"run", "entry", "job"}                   its summary, when that has changed
    gone    {"run", "renamed"}                        deleted, or renamed to `renamed`

An id holds the place in every events.jsonl. A page that reconnects sends the last one, and gets what was written
since. Only the new bytes are read.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.sse import ServerSentEvent

from fledge.studio.events import Cursor, lines_after
from fledge.studio.listing import Listing
from fledge.studio.training import Training
from fledge.tracking.events import Metrics
from fledge.tracking.follow import to_event
from fledge.tracking.sinks.jsonl import parse_event

POLL_SECONDS = 0.5
STATE_SECONDS = 1.5  # a summary reads more files than new rows do
RETRY_MS = 1000  # until a page tries to reconnect


@dataclass
class Followed:
    """One run of a stream. cursor None: the page must load the run again before it can be followed."""

    name: str
    folder: Path | None  # None: no run can have this name
    cursor: Cursor | None
    sent: Any = None  # the last state
    checked: float = 0.0
    gone: bool = False


@dataclass
class Follower:
    """One stream. `poll` gives the messages that are due."""

    listing: Listing
    training: Training
    runs: list[Followed]

    def hello(self) -> ServerSentEvent:
        """The first message of a stream: where it begins, and how soon to reconnect."""
        return ServerSentEvent(event="hello", data={}, retry=RETRY_MS, id=self.id)

    def poll(self) -> list[ServerSentEvent]:
        """The last of the messages has the new id: a page that missed some of them gets all of them again."""
        news = [each for run in self.runs for each in self.news(run)]
        return [
            ServerSentEvent(event=event, data=data, id=self.id if number == len(news) else None)
            for number, (event, data) in enumerate(news, 1)
        ]

    @property
    def id(self) -> str:
        return ";".join("" if run.cursor is None else str(run.cursor) for run in self.runs)

    def news(self, run: Followed) -> Iterator[tuple[str, dict[str, Any]]]:
        cursor, folder = run.cursor, run.folder
        found = [*self.new_events(run, folder), *self.new_state(run, folder)] if folder and folder.exists() else []
        if folder is None or not folder.exists():  # perhaps since a moment ago: what was read then says nothing
            run.cursor = cursor
            if not run.gone:
                yield "gone", {"run": run.name, "renamed": folder and self.listing.renamed(folder)}
            run.gone = True
            return
        run.gone = False
        yield from found

    def new_events(self, run: Followed, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        if run.cursor is None:
            return
        if (found := lines_after(folder, run.cursor)) is None:
            run.cursor = None
            yield "reset", {"run": run.name}
            return
        lines, run.cursor = found
        events = [event for event in map(parse_event, lines) if event]
        metrics = [event for event in map(to_event, events) if isinstance(event, Metrics)]
        rows = [{"step": each.step, "values": finite_values(each.values)} for each in metrics]
        if rows:
            yield "rows", {"run": run.name, "rows": rows}
        if others := [event for event in events if event["event"] != "Metrics"]:
            yield "events", {"run": run.name, "events": others}

    def new_state(self, run: Followed, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        if time.monotonic() < run.checked + STATE_SECONDS:
            return
        run.checked = time.monotonic()
        state = {"entry": self.listing.entry(folder), "job": self.training.job(run.name)}
        if state != run.sent:
            run.sent = state
            yield "state", {"run": run.name, **state}


def finite_values(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def follower(
    listing: Listing, training: Training, runs: Sequence[str], after: Sequence[str], last_id: str | None
) -> Follower:
    """after: for each run the cursor that its curves came with. last_id: of a page that reconnects; it is newer."""
    places = last_id.split(";") if last_id else list(after)
    cursors = [Cursor.parse(place) for place in places] + [None] * len(runs)
    followed = [Followed(name, listing.path(name), at) for name, at in zip(runs, cursors, strict=False)]
    return Follower(listing, training, followed)
