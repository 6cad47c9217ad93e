"""Everything that happens is written down, and a sink that fails never stops the others."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.tracking.events import Evaluated, Event, Notice, Sampled, Stepped
from fledge.tracking.sinks import COLUMNS, CSVSink, JSONLSink, SamplesSink, Sink, TrackerSink, read_metrics


def told(sink: Sink, events: list[Event]) -> None:
    for event in events:
        sink.record(event)
    sink.close()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_have_a_whole_row_for_every_step(tmp_path: Path, events: list[Event]) -> None:
    told(CSVSink(tmp_path), events)
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert list(rows[0]) == list(COLUMNS)
    for row in rows[1:]:
        told_of = {"train_loss", "lr", "grad_norm", "step_seconds", "tokens_per_second", "tokens"}
        assert all(row[name] for name in told_of)


def test_what_an_evaluation_found_stands_in_the_row_of_its_step(tmp_path: Path, events: list[Event]) -> None:
    told(CSVSink(tmp_path), events)
    found = {int(row["step"]): row for row in rows_of(tmp_path) if row["val_loss"]}
    assert list(found) == [0, 3, 6]
    assert found[0]["train_loss"] == ""
    for step, row in found.items():
        assert float(row["val_loss"]) == 3.1 - step / 10
        assert float(row["val_bits_per_byte"]) == 4.4 - step / 10
        assert float(row["val_accuracy"]) == 0.1 + step / 100
    assert float(found[3]["train_loss"]) == 3.0 - 3 / 10


def test_metrics_are_there_while_the_run_is_alive(tmp_path: Path, events: list[Event]) -> None:
    sink = CSVSink(tmp_path)
    for event in events[:6]:
        sink.record(event)
    assert read_metrics(tmp_path)["step"] == [0, 1, 2]
    sink.close()


def test_a_half_written_row_is_not_read(tmp_path: Path, events: list[Event]) -> None:
    told(CSVSink(tmp_path), events)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("7,448,2.")
    assert read_metrics(tmp_path)["step"] == [0, 1, 2, 3, 4, 5, 6]


def test_numbers_come_back_exactly_and_what_is_not_told_is_nan(tmp_path: Path, events: list[Event]) -> None:
    told(CSVSink(tmp_path), events)
    columns = read_metrics(tmp_path)
    assert columns["train_loss"][1:] == [3.0 - step / 10 for step in range(1, 7)]
    assert math.isnan(columns["train_loss"][0])
    assert math.isnan(columns["val_loss"][1])


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv"):
        read_metrics(tmp_path)


def test_going_on_adds_to_the_same_files(tmp_path: Path, events: list[Event]) -> None:
    for part in (events[:6], events[6:]):
        for sink in (CSVSink(tmp_path), JSONLSink(tmp_path), SamplesSink(tmp_path)):
            told(sink, part)
    assert len(rows_of(tmp_path)) == 7
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == len(events)
    assert (tmp_path / "samples.md").read_text().count("## Step ") == 3


def test_every_event_is_one_line_of_json(tmp_path: Path, events: list[Event]) -> None:
    told(JSONLSink(tmp_path), [*events, Sampled(7, "\u2028", "a\nb\r\x0c\x85")])
    lines = (tmp_path / "events.jsonl").read_bytes().split(b"\n")
    records = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == b""
    assert [r["event"] for r in records] == [type(e).__name__ for e in events] + ["Sampled"]
    assert all({"event", "time", "step"} <= record.keys() for record in records)
    assert records[-1]["prompt"] + records[-1]["text"] == "\u2028a\nb\r\x0c\x85"


def test_numbers_that_are_none_are_still_json(tmp_path: Path) -> None:
    told(JSONLSink(tmp_path), [Evaluated(1, "val", math.nan, math.inf, math.nan, 0.0, 9, 4, 0.1)])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=refuse)


def test_samples_are_a_page_to_read(tmp_path: Path, events: list[Event]) -> None:
    told(SamplesSink(tmp_path), events)
    page = (tmp_path / "samples.md").read_text()
    assert page.startswith("## Step 0\n")
    assert page.index("## Step 3") < page.index("abc3") < page.index("## Step 6") < page.index("abc6")


class Broken:
    """Fails at a certain event, or when it is closed."""

    def __init__(self, at: type | None = None) -> None:
        self.at, self.heard = at, 0

    def record(self, event: Event) -> None:
        self.heard += 1
        if self.at and isinstance(event, self.at):
            raise RuntimeError("no more disk")

    def close(self) -> None:
        if self.at is None:
            raise RuntimeError("no more network")


@pytest.mark.parametrize("place", [0, 3])
def test_a_sink_that_fails_is_switched_off_and_the_others_hear_everything(
    tmp_path: Path, events: list[Event], capsys: pytest.CaptureFixture[str], place: int
) -> None:
    broken = Broken(Stepped)
    sinks: list[Sink] = [CSVSink(tmp_path), JSONLSink(tmp_path), SamplesSink(tmp_path)]
    sinks.insert(place, broken)
    tracker = TrackerSink(sinks)
    for event in events:
        tracker.record(event)
    tracker.close()
    warnings = capsys.readouterr().err
    assert warnings.count("warning: Broken failed and is switched off: no more disk") == 1
    assert len(rows_of(tmp_path)) == 7
    records = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(records) == len(events) + 1
    assert "Broken failed" in next(r["text"] for r in records if r["event"] == "Notice")
    assert broken.heard == 1 + next(i for i, e in enumerate(events) if isinstance(e, Stepped))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, a disk without room")
@pytest.mark.parametrize("name", ["metrics.csv", "events.jsonl", "samples.md"])
def test_a_file_of_the_run_that_cannot_be_written_is_an_error_by_name(
    tmp_path: Path, events: list[Event], name: str
) -> None:
    full = tmp_path / name
    full.symlink_to("/dev/full")
    with pytest.raises(UserError, match=re.escape(f"the disk is full: could not write '{full}'")):
        told(TrackerSink([CSVSink(tmp_path), JSONLSink(tmp_path), SamplesSink(tmp_path)]), events)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, a disk without room")
def test_where_a_file_cannot_be_written_everybody_else_is_told_and_closed(tmp_path: Path, events: list[Event]) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    tracker = TrackerSink([JSONLSink(tmp_path), CSVSink(tmp_path), last := Broken(Notice)])
    for tell in (*(lambda event=event: tracker.record(event) for event in events[:3]), tracker.close):
        with pytest.raises(UserError, match="disk is full"):
            tell()
    assert [row["step"] for row in rows_of(tmp_path)] == ["0"]
    assert last.heard == 3


def test_all_sinks_may_fail_at_once(events: list[Event], capsys: pytest.CaptureFixture[str]) -> None:
    tracker = TrackerSink([Broken(Stepped), Broken(Stepped), Broken(Notice)])
    for event in events:
        tracker.record(event)
    tracker.close()
    assert capsys.readouterr().err.count("warning: ") == 3


def test_a_sink_that_fails_to_close_takes_no_other_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TrackerSink([JSONLSink(tmp_path), Broken(), SamplesSink(tmp_path)]).close()
    assert capsys.readouterr().err.splitlines() == ["warning: Broken failed and is switched off: no more network"]
