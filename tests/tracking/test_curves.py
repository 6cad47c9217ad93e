"""Metrics as arrays: fast reading, axes, smoothing, fewer points."""

from pathlib import Path

import numpy as np
import pytest

from fledge.tracking.curves import read_columns, smooth, training_seconds, visible_points, x_values
from fledge.tracking.events import Metrics, Sample
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events

TABLE = "step,train/loss,val/loss\n0,,5.5\n10,4.5,\n20,nan,4.25\n"


def write(folder: Path, metrics: str = TABLE, events: str = "") -> Path:
    (folder / "metrics.csv").write_text(metrics)
    (folder / "events.jsonl").write_text(events)
    return folder


@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        TABLE + "30,3.5",  # still growing
        TABLE + "30,3.5\n",  # too few cells
        TABLE + "30,x,1\n40,1,1\n",
        TABLE + "nan,1,1\n",
        TABLE + ",1,1\n",
        TABLE + '30,"1,1\n40,2,2\n',
        TABLE + "30,inf,-inf\n",
        "step,train/loss\n",
        "",
        "not a header\n1\n",
    ],
)
def test_columns_are_those_of_the_table(table: str, tmp_path: Path) -> None:
    folder = write(tmp_path, table)
    columns, expected = read_columns(folder), read_metrics(folder)
    assert list(columns) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], np.array(values, dtype=float))


def test_replayed_steps_replace_the_earlier_ones(tmp_path: Path) -> None:
    columns = read_columns(write(tmp_path, "step,train/loss\n10,5\n20,4\n30,9\n20,3\n30,2\n"))
    assert columns["step"].tolist() == [10, 20, 30]
    assert columns["train/loss"].tolist() == [5, 3, 2]


def started(time: float, step: int) -> str:
    return (
        f'{{"event": "Started", "time": {time}, "run": "r", "step": {step}, "steps": 9, "parameters": 1,'
        ' "device": "cpu", "dtype": "float32", "compiled": false}\n'
    )


def logged(time: float, step: int) -> str:
    return f'{{"event": "Metrics", "time": {time}, "step": {step}, "values": {{}}}}\n'


def test_time_leaves_out_pauses_and_lost_work(tmp_path: Path) -> None:
    events = started(100, 0) + logged(110, 10) + logged(120, 20) + started(1000, 10) + logged(1010, 20) + "damaged\n"
    folder = write(tmp_path, events=events)
    steps, seconds = training_seconds(folder)
    assert (steps.tolist(), seconds.tolist()) == ([10, 20], [10, 20])
    assert x_values(folder, read_columns(folder), "time").tolist() == [0, 10, 20]


def test_time_of_a_clock_that_was_set_back_does_not_fall(tmp_path: Path) -> None:
    folder = write(tmp_path, events=started(100, 0) + logged(110, 10) + started(50, 10) + logged(40, 20))
    assert training_seconds(folder)[1].tolist() == [10, 10]
    folder = write(tmp_path, events=started(100, 0) + logged(110, 10) + logged(105, 20) + logged(115, 30))
    assert training_seconds(folder)[1].tolist() == [10, 10, 15]


def test_tokens_are_interpolated(tmp_path: Path) -> None:
    folder = write(tmp_path, "step,train/tokens,val/loss\n0,,5\n10,1000,\n15,,4\n20,2000,\n")
    assert x_values(folder, read_columns(folder), "tokens").tolist() == [0, 1000, 1500, 2000]


def test_only_the_wanted_events_are_read(tmp_path: Path) -> None:
    sample = '{"event": "Sample", "step": 1, "prompt": "\\"Metrics\\"", "text": ""}\n'
    folder = write(tmp_path, events=logged(1, 1) + sample)
    assert [event["event"] for event in read_events(folder, Metrics)] == ["Metrics"]
    assert [event["event"] for event in read_events(folder, Sample, Metrics)] == ["Metrics", "Sample"]


def test_smoothing_is_unbiased() -> None:
    assert smooth(np.full(5, 3.0), 0.9).tolist() == pytest.approx([3.0] * 5)
    assert smooth(np.array([1.0, 2.0]), 0.5).tolist() == pytest.approx([1.0, 5 / 3])
    assert smooth(np.array([1.0, 2.0]), 0.0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("log_x", [False, True])
def test_few_points_keep_every_spike(log_x: bool) -> None:
    x, y = np.arange(100_000.0), np.zeros(100_000)
    y[[77, 54_321]] = 9.0, -9.0
    seen = visible_points(np.log10(np.maximum(x, 1e-9)) if log_x else x, y, 400)
    assert len(seen) <= 402
    assert {0, 77, 54_321, 99_999} <= set(seen.tolist())
    assert (np.diff(seen) > 0).all()
    assert visible_points(x[:300], y[:300], 400).tolist() == list(range(300))
