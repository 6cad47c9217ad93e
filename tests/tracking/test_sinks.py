"""The files of a run: metrics.csv, events.jsonl and samples.md."""

import csv
import json
import math
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.tracking.events import Event, Metrics, Sample
from fledge.tracking.sinks.base import Sink
from fledge.tracking.sinks.csv import CSVSink, read_metrics
from fledge.tracking.sinks.jsonl import JSONLSink
from fledge.tracking.sinks.samples import SamplesSink


def record(sink: Sink, *events: Event) -> None:
    for event in events:
        sink.record(event)
    sink.close()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_a_step_and_a_column_a_metric(tmp_path: Path, events: list[Event]) -> None:
    record(CSVSink(tmp_path), *events)
    rows = rows_of(tmp_path)
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    names = {name for event in events if isinstance(event, Metrics) for name in event.values}
    assert set(rows[0]) == {"step", *names}
    for row in rows[1:]:
        assert all(row[name] for name in names if name.startswith("train/"))


def test_csv_evaluation_and_step_share_a_row(tmp_path: Path, events: list[Event]) -> None:
    record(CSVSink(tmp_path), *events)
    evaluated = {int(row["step"]): row for row in rows_of(tmp_path) if row["val/loss"]}
    assert list(evaluated) == [0, 3, 6]
    assert evaluated[0]["train/loss"] == ""
    for step, row in evaluated.items():
        assert float(row["val/loss"]) == 3.1 - step / 10
        assert float(row["val/bits_per_byte"]) == 4.4 - step / 10
        assert float(row["val/accuracy"]) == 0.1 + step / 100
    assert float(evaluated[3]["train/loss"]) == 3.0 - 3 / 10


def test_csv_new_metric_becomes_a_column(tmp_path: Path) -> None:
    sink = CSVSink(tmp_path)
    for event in (Metrics(1, {"a/x": 1.5}), Metrics(2, {"a/x": 2.5}), Metrics(2, {"b": 7}), Metrics(3, {"c": -1e-9})):
        sink.record(event)
        assert read_metrics(tmp_path)["step"][-1] == event.step  # readable after every event
    sink.close()
    assert (tmp_path / "metrics.csv").read_text() == "step,a/x,b,c\n1,1.5,,\n2,2.5,7,\n3,,,-1e-09\n"


def test_csv_later_value_of_a_step_wins(tmp_path: Path) -> None:
    record(CSVSink(tmp_path), Metrics(1, {"a": 0.123456789}), Metrics(1, {"a": 2}))
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,2\n"


def test_csv_is_readable_while_the_run_is_alive(tmp_path: Path, events: list[Event]) -> None:
    sink = CSVSink(tmp_path)
    assert read_metrics(tmp_path)["step"] == []
    for event in events[:5]:
        sink.record(event)
    assert read_metrics(tmp_path)["step"] == [0, 1, 2]
    sink.close()


def test_csv_unfinished_row_is_not_read(tmp_path: Path, events: list[Event]) -> None:
    record(CSVSink(tmp_path), *events)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("7,3.1,20.0,4.3,0.1,0.5,2.9,1e-3,0.5,0.25,256.0,44")  # every cell is there, the last one in part
    assert read_metrics(tmp_path)["step"] == [0, 1, 2, 3, 4, 5, 6]


def test_csv_numbers_are_exact_and_gaps_are_nan(tmp_path: Path, events: list[Event]) -> None:
    record(CSVSink(tmp_path), *events)
    metrics = read_metrics(tmp_path)
    assert metrics["train/loss"][1:] == [3.0 - step / 10 for step in range(1, 7)]
    assert math.isnan(metrics["train/loss"][0])
    assert math.isnan(metrics["val/loss"][1])
    assert metrics.measured("val/loss") == [3.1 - step / 10 for step in (0, 3, 6)]
    assert metrics.last_step == 6
    assert len(metrics["no/such"]) == 7
    assert metrics.measured("no/such") == []


def test_read_metrics_refuses_a_folder_without_metrics(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("cut", range(1, 12))
def test_resuming_appends_to_the_same_files(tmp_path: Path, events: list[Event], cut: int) -> None:
    for part in (events[:cut], events[cut:]):
        for sink in (CSVSink(tmp_path), JSONLSink(tmp_path), SamplesSink(tmp_path)):
            record(sink, *part)
    whole = tmp_path / "whole"
    whole.mkdir()
    record(CSVSink(whole), *events)
    assert (tmp_path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == len(events)
    assert (tmp_path / "samples.md").read_text().count("## Step ") == 3


def test_jsonl_has_one_line_for_each_event(tmp_path: Path, events: list[Event]) -> None:
    record(JSONLSink(tmp_path), *events, Sample(7, "\u2028", "a\nb\r\x0c\x85"))
    lines = (tmp_path / "events.jsonl").read_bytes().split(b"\n")
    records = [json.loads(line) for line in lines[:-1]]
    assert lines[-1] == b""
    assert [r["event"] for r in records] == [type(e).__name__ for e in events] + ["Sample"]
    assert all({"event", "time", "step"} <= record.keys() for record in records)
    assert records[-1]["prompt"] + records[-1]["text"] == "\u2028a\nb\r\x0c\x85"


def test_jsonl_non_finite_numbers_are_valid_json(tmp_path: Path) -> None:
    record(JSONLSink(tmp_path), Metrics(1, {"val/loss": math.nan, "val/perplexity": math.inf}))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads((tmp_path / "events.jsonl").read_text(), parse_constant=refuse)


def test_samples_page_shows_samples_in_order(tmp_path: Path, events: list[Event]) -> None:
    record(SamplesSink(tmp_path), *events)
    page = (tmp_path / "samples.md").read_text()
    assert page.startswith("## Step 0\n")
    assert page.index("## Step 3") < page.index("abc3") < page.index("## Step 6") < page.index("abc6")


@pytest.mark.parametrize("text", ["````", "x\n````\n## not a heading", "`" * 12])
def test_samples_fence_is_longer_than_any_in_the_text(tmp_path: Path, text: str) -> None:
    record(SamplesSink(tmp_path), Sample(1, "", text))
    lines = (tmp_path / "samples.md").read_text().splitlines()
    fence = lines[2]
    assert set(fence) == {"`"}
    inside = lines[3 : len(lines) - 1 - lines[::-1].index(fence)]
    assert not any(line.strip().startswith(fence) for line in inside)
    assert "\n".join(inside) == text
