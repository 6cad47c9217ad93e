"""The tracker: every sink gets every event, whatever the other sinks do."""

import json
import re
import sys
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.tracking.events import Event, Metrics, Notice
from fledge.tracking.sinks.base import Sink
from fledge.tracking.sinks.csv import CSVSink, read_metrics
from fledge.tracking.sinks.jsonl import JSONLSink
from fledge.tracking.sinks.samples import SamplesSink
from fledge.tracking.terminal import LineView
from fledge.tracking.tracker import Tracker

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


class Broken:
    """Fails at the first event of a kind, or without a kind when it is closed."""

    def __init__(self, fails_at: type | None = None) -> None:
        self.fails_at, self.count = fails_at, 0

    def record(self, event: Event) -> None:
        self.count += 1
        if self.fails_at and isinstance(event, self.fails_at):
            raise RuntimeError("no more disk")

    def close(self) -> None:
        if self.fails_at is None:
            raise RuntimeError("no more network")


def file_sinks(folder: Path) -> list[Sink]:
    return [CSVSink(folder), JSONLSink(folder), SamplesSink(folder)]


def record_all(folder: Path, events: list[Event]) -> None:
    tracker = Tracker(file_sinks(folder))
    for event in events:
        tracker.record(event)


@pytest.mark.parametrize("place", [0, 3])
def test_failing_sink_is_switched_off_and_the_others_continue(
    tmp_path: Path, events: list[Event], capsys: pytest.CaptureFixture[str], place: int
) -> None:
    broken = Broken(Metrics)
    sinks = [*file_sinks(tmp_path), LineView(sys.stderr)]
    sinks.insert(place, broken)
    tracker = Tracker(sinks)
    for event in events:
        tracker.record(event)
    tracker.close()
    assert capsys.readouterr().err.count("warning: Broken failed and is switched off: no more disk") == 1
    assert len(read_metrics(tmp_path)["step"]) == 7
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(records) == len(events) + 1
    assert "Broken failed" in next(r["text"] for r in records if r["event"] == "Notice")
    assert broken.count == 1 + next(i for i, e in enumerate(events) if isinstance(e, Metrics))


@needs_dev_full
@pytest.mark.parametrize("name", ["metrics.csv", "events.jsonl", "samples.md"])
def test_full_disk_is_an_error_that_names_the_file(tmp_path: Path, events: list[Event], name: str) -> None:
    full = tmp_path / name
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=re.escape(f"the disk is full: could not write '{full}'")):
        record_all(tmp_path, events)


@needs_dev_full
def test_full_disk_does_not_keep_events_from_other_sinks(tmp_path: Path, events: list[Event]) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    tracker = Tracker([JSONLSink(tmp_path), CSVSink(tmp_path), last := Broken(Notice)])
    for act in (*(lambda event=event: tracker.record(event) for event in events[:3]), tracker.close):
        with pytest.raises(UserError, match="disk is full"):
            act()
    assert read_metrics(tmp_path)["step"] == [0]
    assert last.count == 3


def test_several_sinks_may_fail_at_once(events: list[Event], capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker([LineView(sys.stderr), Broken(Metrics), Broken(Metrics), Broken(Notice)])
    for event in events:
        tracker.record(event)
    tracker.close()
    assert capsys.readouterr().err.count("warning: ") == 3


def test_all_sinks_may_fail(events: list[Event]) -> None:
    sinks = [Broken(Metrics), Broken(Notice)]
    tracker = Tracker([*sinks])
    for event in events:
        tracker.record(event)
    heard = [sink.count for sink in sinks]
    tracker.record(events[-1])
    assert [sink.count for sink in sinks] == heard, "both are switched off"
    tracker.close()


def test_sink_that_fails_to_close_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tracker([JSONLSink(tmp_path), Broken(), SamplesSink(tmp_path)]).close()
    assert capsys.readouterr().err.splitlines() == ["warning: Broken failed and is switched off: no more network"]
