"""Metrics for the page: the same rows as `read_metrics`, also while the file grows; reduced without losing extremes."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.studio import metrics
from fledge.studio.metrics import MetricsCache, curve_of, training_seconds
from fledge.tracking import metrics_table
from fledge.tracking.events import Metrics
from fledge.tracking.metrics_table import Table
from fledge.tracking.sinks.csv import CSVSink, read_metrics, rewind_metrics

CELLS = st.sampled_from(["", "1.5", "nan", "inf", "-inf", "1e-3", "x", '"1"', " 2", "1_0", "0x1", "é", "\r"])


def same(folder: Path, table: Table) -> bool:
    expected = read_metrics(folder)
    return list(expected) == list(table.columns) and all(
        np.array_equal(np.array(values), table.columns[name], equal_nan=True) for name, values in expected.items()
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CELLS, max_size=4), max_size=8), st.sampled_from(["\n", ""]), st.integers(1, 3), st.booleans())
def test_table_equals_read_metrics(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], end: str, columns: int, arrow: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    header = ",".join(["step", *(f"train/{n}" for n in range(columns - 1))])
    lines = [header, *(",".join([str(n), *row]) for n, row in enumerate(rows))]
    (folder / "metrics.csv").write_bytes(("\n".join(lines) + end).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_table, "ARROW_BYTES", 0 if arrow else 1 << 60)
        assert same(folder, MetricsCache().table(folder))


def test_table_follows_a_file_that_grows_and_is_rewound(tmp_path: Path) -> None:
    """New rows, more values of the last step, a new column, a rollback, and the file gone."""
    cache, sink = MetricsCache(), CSVSink(tmp_path)
    assert same(tmp_path, cache.table(tmp_path))
    for step in range(1, 40):
        sink.record(Metrics(step, {"train/loss": 1 / step}))
        assert same(tmp_path, cache.table(tmp_path))
        if step % 10 == 0:
            sink.record(Metrics(step, {"val/loss": math.nan, f"val/{step // 20}": 2.0}))
            assert same(tmp_path, cache.table(tmp_path))
    sink.close()
    rewind_metrics(tmp_path, 15)
    sink = CSVSink(tmp_path)
    for step in range(16, 60):
        sink.record(Metrics(step, {"train/loss": 2 / step}))
    sink.close()
    table = cache.table(tmp_path)
    assert same(tmp_path, table)
    assert table.measured["val/loss"].sum() == 1
    (tmp_path / "metrics.csv").unlink()
    assert cache.table(tmp_path).names == []


def test_only_new_bytes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, cache = CSVSink(tmp_path), MetricsCache()
    for step in range(1, 200):
        sink.record(Metrics(step, {"train/loss": 1.0}))
    cache.table(tmp_path)
    parsed: list[bytes] = []
    parse = metrics.parse_rows
    monkeypatch.setattr(metrics, "parse_rows", lambda names, new: (parsed.append(new), parse(names, new))[1])
    sink.record(Metrics(200, {"train/loss": 1.0}))
    assert len(cache.table(tmp_path).columns["step"]) == 200
    assert parsed == [b"199,1.0\n200,1.0\n", b"200,1.0\n"], "what is new, and the row that may still change"


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=400),
    st.integers(8, 40),
    st.booleans(),
)
def test_reduced_curve_keeps_extremes_and_gaps(values: list[float], points: int, log: bool) -> None:
    steps = np.arange(1.0, len(values) + 1)
    table = Table({"step": steps, "m": np.array(values)}, {"m": np.ones(len(values), dtype=np.bool_)})
    curve = curve_of(table, "m", -math.inf, math.inf, points, log=log)
    finite = [value for value in values if math.isfinite(value)]
    kept = [value for value in curve.values if value is not None]
    assert curve.steps == sorted(set(curve.steps))
    assert len(curve.steps) <= 5 * (points // 4) + 2 or len(values) <= points
    assert all(
        value is None or values[int(step) - 1] == value for step, value in zip(curve.steps, curve.values, strict=True)
    )
    assert (None in curve.values) == (len(finite) < len(values))
    assert not finite or (min(kept), max(kept)) == (min(finite), max(finite))


def test_curve_of_a_range_and_of_an_unknown_metric() -> None:
    table = Table({"step": np.arange(10.0), "m": np.arange(10.0)}, {"m": np.arange(10) % 2 == 0})
    assert curve_of(table, "m", 3, 8).steps == [4, 6, 8]
    with pytest.raises(UserError, match="no metric 'x'"):
        curve_of(table, "x", 0, 1)


def test_training_seconds_fill_the_steps_between_rows() -> None:
    columns = {"step": np.array([0.0, 10, 15, 20]), "train/step_seconds": np.array([math.nan, 2, math.nan, 1])}
    assert training_seconds(Table(columns)).tolist() == [0.0, 20.0, 25.0, 30.0]


def test_large_files_are_parsed_as_small_ones_are() -> None:
    """Several blocks of Arrow, with empty cells, NaN, infinity and rows that are cut."""
    chance = random.Random(0)
    cells = ("", "", "nan", "inf", "-inf", "1.5", "-2e-3")
    rows = [
        f"{step},{chance.choice(cells)},{chance.choice(cells)},1{',' * (step % 997 == 0)}" for step in range(200_000)
    ]
    content = memoryview("".join(row + "\n" for row in rows).encode())
    names = ["step", "a", "b", "c"]
    fast, slow = metrics_table.parse_rows(names, content), metrics_table._parse_slowly(names, content)
    assert fast.rows == slow.rows == 200_000 - 201
    for name in names:
        np.testing.assert_array_equal(fast.columns[name], slow.columns[name])
        np.testing.assert_array_equal(fast.measured[name], slow.measured[name])
    assert metrics_table._parse_with_arrow(names, content) is not None
    assert metrics_table.parse_rows(names, memoryview(b"1,2\n" * 50_000)).rows == 0, "all rows are cut"
