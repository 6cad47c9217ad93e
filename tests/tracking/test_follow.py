"""Reading events.jsonl while it is written: half lines, rewritten files, damage, newer versions."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.tracking import follow
from fledge.tracking.events import Anomaly, Event, Metrics, RolledBack, Started
from fledge.tracking.follow import EventFile, to_event
from fledge.tracking.rewind import rewind
from fledge.tracking.sinks.jsonl import EVENTS, REQUIRED, JSONLSink


def write(folder: Path, events: list[Event]) -> None:
    sink = JSONLSink(folder)
    for event in events:
        sink.record(event)
    sink.close()


def test_events_come_back_as_they_were(tmp_path: Path, events: list[Event]) -> None:
    write(tmp_path, events)
    poll = EventFile(tmp_path).poll()
    assert poll.restarted
    assert not poll.sampled
    assert [to_event(record) for record in poll.records] == events


def test_only_what_is_new_and_complete_is_read(tmp_path: Path, events: list[Event]) -> None:
    file = EventFile(tmp_path)
    assert file.poll().records == [], "there is no file yet"
    write(tmp_path, events[:3])
    assert len(file.poll().records) == 3
    line = json.dumps({"event": "Metrics", "time": 1.0, "step": 1, "values": {"train/loss": 2.0}})
    with (tmp_path / EVENTS).open("a") as growing:
        growing.write(line[:20])
        growing.flush()
        assert file.poll().records == [], "half a line"
        growing.write(line[20:] + "\n")
    poll = file.poll()
    assert not poll.restarted
    assert [to_event(record) for record in poll.records] == [Metrics(1, {"train/loss": 2.0})]


def test_rewound_file_is_read_from_its_beginning(tmp_path: Path, events: list[Event]) -> None:
    write(tmp_path, events)
    file = EventFile(tmp_path)
    file.poll()
    rewind(tmp_path, 3)
    write(tmp_path, [RolledBack(3, 6, "a spike", (3, 5))])
    poll = file.poll()
    assert poll.restarted
    assert max(record["step"] for record in poll.records) == 3
    assert poll.records[-1]["event"] == "RolledBack"


def test_damaged_lines_and_unknown_events_are_left_out(tmp_path: Path, events: list[Event]) -> None:
    write(tmp_path, events[:2])
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b"\xff\x00 no json\n[1]\n{}\n")
        file.write(b'{"event": "Dreamt", "step": 3, "about": "sheep"}\n')
        file.write(b'{"event": "Metrics", "step": 3, "values": [1]}\n')
        file.write(b'{"event": "Sample", "step": 3, "prompt": 5, "text": {}}\n')
        file.write(b'{"event": "Notice", "step": 1%s, "text": "x"}\n' % (b"0" * 400))
        file.write(b'{"event": "Notice", "step": 3, "time": 1%s, "text": "x"}\n' % (b"0" * 400))
    known = [to_event(record) for record in EventFile(tmp_path).poll().records]
    assert [event for event in known if event] == events[:2]


def test_fields_of_a_newer_version_are_left_out_and_nan_comes_back() -> None:
    record = {"event": "Started", "step": 0, "run": "x", "steps": 9, "parameters": 1, "device": "cpu"}
    record |= {"dtype": "float32", "compiled": False, "mood": "good"}
    assert to_event(record) == Started("x", 0, 9, 1, "cpu", "float32", False)
    broken = {"event": "Anomaly", "step": 3, "reason": "r", "origin": "", "loss": None, "grad_norm": 1.0}
    event = to_event({**broken, "samples": [0, 3]})
    assert isinstance(event, Anomaly)
    assert math.isnan(event.loss)
    values = to_event({"event": "Metrics", "step": 1, "values": {"a": None, "b": 1, "c": "text"}})
    assert isinstance(values, Metrics)
    assert math.isnan(values.values.pop("a"))
    assert values.values == {"b": 1.0}


ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(follow.KINDS)), st.data())
def test_no_content_of_a_field_raises(kind: str, data: Any) -> None:
    names = [field for field in follow.KINDS[kind].__dataclass_fields__ if data.draw(st.booleans()) or field == "step"]
    record = {"event": kind, **{name: data.draw(ANYTHING) for name in names}}
    to_event(record) if REQUIRED[kind] <= record.keys() else None


def test_large_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"LARGE": 10_000, "PIECES": 8, "PIECE": 600, "LAST_PIECE": 2_000}.items():
        monkeypatch.setattr(follow, name, size)
    steps = range(1, 2001)
    started = Started("x", 0, 2000, 1, "cpu", "float32", False)
    write(tmp_path, [started, *(Metrics(step, {"train/loss": 1 / step}) for step in steps)])
    file = EventFile(tmp_path)
    poll = file.poll()
    assert poll.sampled
    found = [record["step"] for record in poll.records]
    assert found == sorted(set(found)), "in order, each once"
    assert (found[0], found[-1]) == (0, 2000)
    assert 50 < len(found) < 500
    assert max(later - one for one, later in itertools.pairwise(found)) < 400, "all over the run"
    write(tmp_path, [Metrics(2001, {})])
    assert [record["step"] for record in file.poll().records] == [2001]
