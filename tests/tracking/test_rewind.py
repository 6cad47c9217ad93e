"""Rewinding cuts the record files exactly at a step."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.tracking.events import Event, Metrics, RolledBack, Sample
from fledge.tracking.rewind import rewind
from fledge.tracking.sinks.csv import CSVSink, read_metrics
from fledge.tracking.sinks.jsonl import JSONLSink, read_events
from fledge.tracking.sinks.samples import SamplesSink

SINKS = (CSVSink, JSONLSink, SamplesSink)
FILES = ("metrics.csv", "events.jsonl", "samples.md")


def record(folder: Path, events: list[Event]) -> None:
    for kind in SINKS:
        sink = kind(folder)
        for event in events:
            sink.record(event)
        sink.close()


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("step", [-1, 0, 2, 3, 5, 6])
def test_rewind_gives_the_files_as_they_were_at_that_step(tmp_path: Path, events: list[Event], step: int) -> None:
    earlier = [event for event in events if event.step <= step]
    for folder, what in ((tmp_path / "whole", events), (tmp_path / "earlier", earlier)):
        folder.mkdir()
        record(folder, what)
    rewind(tmp_path / "whole", step)
    assert read_metrics(tmp_path / "whole")["step"] == read_metrics(tmp_path / "earlier")["step"]
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "earlier")
    for name in ("metrics.csv", "samples.md"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "earlier" / name).read_bytes(), name


def test_continuing_after_rewind_gives_the_same_files(tmp_path: Path, events: list[Event]) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    for folder in (broken, unbroken):
        folder.mkdir()
        record(folder, events)
    rewind(broken, 3)
    record(broken, [event for event in events if event.step > 3])
    for name in ("metrics.csv", "samples.md"):
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert steps_of(broken) == steps_of(unbroken)


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("row", ["5.0.0,320", "²,3", "9" * 5000, "\0" * 40, "0;1;2", "nan,1", "inf,2", "2,x", ""])
def test_rewind_removes_damaged_rows(tmp_path: Path, events: list[Event], row: str, pad: bool) -> None:
    record(tmp_path, events)
    rewind(tmp_path, 3)
    whole = (tmp_path / "metrics.csv").read_bytes()
    commas = "," * (whole.partition(b"\n")[0].count(b",") - row.count(",")) * pad
    (tmp_path / "metrics.csv").write_bytes(whole + f"{row}{commas}\n".encode())
    assert read_metrics(tmp_path)["step"] == [0, 1, 2, 3]
    rewind(tmp_path, 3)
    assert (tmp_path / "metrics.csv").read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    ["[1]", "12", "null", '{"step": 1}', '{"event": "Sample", "step": 1}', '{"event": "RolledBack", "step": 1}',
     '{"event": ["Sample"], "step": 1}', '{"event": "Saved", "step": "x"}', "[" * 100_000],
)  # fmt: skip
def test_damaged_events_are_left_out(tmp_path: Path, events: list[Event], line: str) -> None:
    record(tmp_path, events)
    whole = list(read_events(tmp_path))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    assert list(read_events(tmp_path)) == whole
    rewind(tmp_path, max(event["step"] for event in whole))
    assert steps_of(tmp_path) == [event["step"] for event in whole]


def test_rewind_removes_an_unfinished_last_line(tmp_path: Path, events: list[Event]) -> None:
    record(tmp_path, events)
    for name in FILES:
        with (tmp_path / name).open("a") as file:
            file.write({"metrics.csv": "2,12", "events.jsonl": '{"event": "St', "samples.md": "## Ste"}[name])
    rewind(tmp_path, 6)
    assert read_metrics(tmp_path)["step"] == [0, 1, 2, 3, 4, 5, 6]
    assert (tmp_path / "metrics.csv").read_text().endswith("\n")
    assert max(steps_of(tmp_path)) == 6
    assert "## Ste\n" not in (tmp_path / "samples.md").read_text() + "\n"


def test_rewind_removes_columns_that_are_then_empty(tmp_path: Path) -> None:
    record(tmp_path, [Metrics(1, {"a": 1}), Metrics(2, {"b": 2, "a": 3})])
    rewind(tmp_path, 1)
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n1,1\n"


def test_metrics_with_a_damaged_header_start_anew(tmp_path: Path) -> None:
    record(tmp_path, [Metrics(1, {"a": 1}), Metrics(2, {"a": 2})])
    (tmp_path / "metrics.csv").write_text("stap,a\n1,1\n2,2\n")
    assert read_metrics(tmp_path)["step"] == []
    rewind(tmp_path, 1)
    record(tmp_path, [Metrics(2, {"a": 2})])
    assert (tmp_path / "metrics.csv").read_text() == "step,a\n2,2\n"


def test_rewind_keeps_events_of_the_given_kinds(tmp_path: Path, events: list[Event]) -> None:
    rollback = RolledBack(3, 5, "loss spike", (3, 4))
    record(tmp_path, [*events, rollback])
    rewind(tmp_path, 3)
    assert "RolledBack" not in {event["event"] for event in read_events(tmp_path)}  # it came after the checkpoint of 3
    record(tmp_path, [rollback])
    rewind(tmp_path, 1, keep=(RolledBack,))
    assert list(read_events(tmp_path))[-1]["failed_step"] == 5


def test_rewind_creates_no_files(tmp_path: Path) -> None:
    rewind(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


NASTY = st.lists(
    st.sampled_from(
        ["## Step 3\n", "## Step 9", "\n## Step 1\n\n", "````", "\n````\n", "`" * 7, "\r\n", "\x0c", "word", "é"]
    ),
    max_size=5,
).map("".join)


@given(texts=st.lists(NASTY, min_size=2, max_size=4), data=st.data())
def test_rewind_of_samples_that_contain_headings_and_fences(
    texts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    step = data.draw(st.integers(0, len(texts)))
    whole, earlier = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("earlier")
    for folder, upto in ((whole, len(texts)), (earlier, step)):
        record(folder, [Sample(number, "", text) for number, text in enumerate(texts[:upto], start=1)])
    rewind(whole, step)
    assert (whole / "samples.md").read_bytes() == (earlier / "samples.md").read_bytes()
