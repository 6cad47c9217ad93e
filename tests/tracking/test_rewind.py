"""A run that goes on from an earlier step takes back what was written after it, and nothing else."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.tracking.events import Event, Sampled
from fledge.tracking.sinks import CSVSink, JSONLSink, SamplesSink, read_events, read_metrics, rewind

SINKS = (CSVSink, JSONLSink, SamplesSink)
FILES = ("metrics.csv", "events.jsonl", "samples.md")


def told(folder: Path, events: list[Event]) -> None:
    for kind in SINKS:
        sink = kind(folder)
        for event in events:
            sink.record(event)
        sink.close()


def steps_of(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("step", [-1, 0, 2, 3, 5, 6])
def test_what_came_later_is_gone_and_what_came_before_is_as_it_was(
    tmp_path: Path, events: list[Event], step: int
) -> None:
    earlier = [event for event in events if event.step <= step]
    for folder, what in ((tmp_path / "whole", events), (tmp_path / "earlier", earlier)):
        folder.mkdir()
        told(folder, what)
    rewind(tmp_path / "whole", step)
    assert read_metrics(tmp_path / "whole")["step"] == read_metrics(tmp_path / "earlier")["step"]
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "earlier")
    for name in ("metrics.csv", "samples.md"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "earlier" / name).read_bytes(), name


def test_going_on_after_rewinding_gives_the_files_of_an_unbroken_run(tmp_path: Path, events: list[Event]) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    for folder in (broken, unbroken):
        folder.mkdir()
        told(folder, events)
    rewind(broken, 3)
    told(broken, [event for event in events if event.step > 3])
    for name in ("metrics.csv", "samples.md"):
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert steps_of(broken) == steps_of(unbroken)


@pytest.mark.parametrize("line", ["5.0,320", "²,3", "9" * 5000, "\0" * 40, "0;1;2", "nan,1"])
def test_a_row_that_is_none_is_no_obstacle(tmp_path: Path, events: list[Event], line: str) -> None:
    told(tmp_path, events)
    rewind(tmp_path, 3)
    whole = (tmp_path / "metrics.csv").read_bytes()
    (tmp_path / "metrics.csv").write_bytes(whole + line.encode() + b"\n")
    rewind(tmp_path, 3)
    assert (tmp_path / "metrics.csv").read_bytes() == whole


@pytest.mark.parametrize(
    "line",
    ["[1]", "12", "null", '{"step": 1}', '{"event": "Sampled", "step": 1}', '{"event": "RolledBack", "step": 1}',
     '{"event": ["Sampled"], "step": 1}', '{"event": "Saved", "step": "x"}', "[" * 100_000],
)  # fmt: skip
def test_an_event_that_is_none_is_left_out(tmp_path: Path, events: list[Event], line: str) -> None:
    told(tmp_path, events)
    whole = list(read_events(tmp_path))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    assert list(read_events(tmp_path)) == whole
    rewind(tmp_path, max(event["step"] for event in whole))
    assert steps_of(tmp_path) == [event["step"] for event in whole]


def test_half_a_line_of_a_killed_process_is_removed(tmp_path: Path, events: list[Event]) -> None:
    told(tmp_path, events)
    for name in FILES:
        with (tmp_path / name).open("a") as file:
            file.write({"metrics.csv": "2,12", "events.jsonl": '{"event": "St', "samples.md": "## Ste"}[name])
    rewind(tmp_path, 6)
    assert read_metrics(tmp_path)["step"] == [0, 1, 2, 3, 4, 5, 6]
    assert (tmp_path / "metrics.csv").read_text().endswith("\n")
    assert max(steps_of(tmp_path)) == 6
    assert "## Ste\n" not in (tmp_path / "samples.md").read_text() + "\n"


def test_a_folder_without_files_stays_without(tmp_path: Path) -> None:
    rewind(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []


NASTY = st.lists(
    st.sampled_from(
        ["## Step 3\n", "## Step 9", "\n## Step 1\n\n", "````", "\n````\n", "`" * 7, "\r\n", "\x0c", "word", "é"]
    ),
    max_size=5,
).map("".join)


@given(texts=st.lists(NASTY, min_size=2, max_size=4), data=st.data())
def test_samples_survive_whatever_the_model_writes(
    texts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A model that learned from Markdown writes headings and fences of its own."""
    step = data.draw(st.integers(0, len(texts)))
    whole, earlier = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("earlier")
    for folder, upto in ((whole, len(texts)), (earlier, step)):
        told(folder, [Sampled(number, "", text) for number, text in enumerate(texts[:upto], start=1)])
    rewind(whole, step)
    assert (whole / "samples.md").read_bytes() == (earlier / "samples.md").read_bytes()


@pytest.mark.parametrize("text", ["````", "x\n````\n## not a heading", "`" * 12])
def test_a_fence_in_a_sample_does_not_end_its_fence(tmp_path: Path, text: str) -> None:
    sink = SamplesSink(tmp_path)
    sink.record(Sampled(1, "", text))
    sink.close()
    lines = (tmp_path / "samples.md").read_text().splitlines()
    fence = lines[2]
    assert set(fence) == {"`"}
    inside = lines[3 : len(lines) - 1 - lines[::-1].index(fence)]
    assert not any(line.strip().startswith(fence) for line in inside)
    assert "\n".join(inside) == text
