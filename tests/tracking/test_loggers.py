"""Loggers: TensorBoard and Weights & Biases get the metrics that metrics.csv has."""

import struct
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.core.config import build, read_overrides, to_toml
from fledge.core.errors import UserError
from fledge.settings.pipeline import resolve
from fledge.tracking.config import TrackConfig
from fledge.tracking.events import Event
from fledge.tracking.sinks.base import Sink, require, run_id
from fledge.tracking.sinks.tensorboard import TensorBoardSink
from fledge.tracking.sinks.trackio import TrackioSink
from fledge.tracking.sinks.wandb import WandbSink

CONFIG = TrackConfig(project="nests")


def record(sink: Sink, events: list[Event]) -> None:
    for event in events:
        sink.record(event)
    sink.close()


def test_tensorboard_reads_the_metrics(tmp_path: Path, events: list[Event]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record(TensorBoardSink(tmp_path, CONFIG, 0), events)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    losses = {e.step: e.value for e in read.Scalars("train/loss")}
    assert losses == {step: pytest.approx(3.0 - step / 10) for step in range(1, 7)}
    assert [e.step for e in read.Scalars("val/loss")] == [0, 3, 6]
    assert {"train/lr", "train/grad_norm", "train/tokens_per_second", "val/accuracy"} <= set(read.Tags()["scalars"])
    texts = read.Tensors("sample/text_summary")
    assert [e.step for e in texts] == [0, 3, 6]
    assert texts[-1].tensor_proto.string_val[0].decode() == "abc6\n"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def records_of(content: bytes) -> Iterator[Any]:
    """The records of an offline run: a file header of 7 bytes, then LevelDB's log format in blocks of 32 KB."""
    from wandb.proto import wandb_internal_pb2

    whole, place = b"", 7
    while place + 7 <= len(content):
        if (room := -place % 32768) and room < 7:
            place += room
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.mark.usefixtures("offline")
def test_wandb_offline_run_has_the_metrics(tmp_path: Path, events: list[Event]) -> None:
    wandb = pytest.importorskip("wandb")
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.toml").write_text("[model]\nn_layer = 2\n")
    record(WandbSink(folder, CONFIG, 0), events)
    wandb.teardown()  # its writer is a process of its own: wait until it has written
    (file,) = folder.rglob("*.wandb")
    rows, names = [], []
    for entry in records_of(file.read_bytes()):
        if entry.HasField("history"):
            rows.append({(i.key or "/".join(i.nested_key)): i.value_json for i in entry.history.item})
        if entry.HasField("run"):
            names.append((entry.run.project, entry.run.display_name))
    assert names[0] == ("nests", "tiny")
    losses = {int(row["_step"]): float(row["train/loss"]) for row in rows if "train/loss" in row}
    assert losses == {step: pytest.approx(3.0 - step / 10) for step in range(1, 7)}
    assert [int(row["_step"]) for row in rows if "val/loss" in row] == [0, 3, 6]


@pytest.mark.usefixtures("offline")
def test_wandb_runs_of_the_same_name_have_different_ids(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    ids = []
    for place in ("here", "there"):
        (tmp_path / place / "demo").mkdir(parents=True)
        (tmp_path / place / "demo" / "config.toml").touch()
        sink = WandbSink(tmp_path / place / "demo", CONFIG, 0)
        ids.append(sink._run.id)
        sink.close()
    assert ids[0] != ids[1]


def test_trackio_has_the_metrics_of_a_run_and_of_its_resumption(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")  # read from the environment at import
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.toml").write_text("[model]\nn_layer = 2\n")
    half = [event for event in events if event.step <= 3]
    record(TrackioSink(folder, CONFIG, 0), half)
    record(TrackioSink(folder, CONFIG, 3), [event for event in events if event.step > 3])
    storage = sqlite_storage.SQLiteStorage
    assert storage.get_runs("nests") == [run_id(folder)]
    rows = storage.get_logs("nests", run_id(folder))
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == {step: pytest.approx(3.0 - step / 10) for step in range(1, 7)}
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 3, 6]
    assert capsys.readouterr().out == "", "stdout belongs to the result of the command"


def test_missing_package_is_named_with_its_pip_command() -> None:
    with pytest.raises(UserError, match="no_such_package") as refusal:
        require("no_such_package")
    assert "pip install 'fledge[no_such_package]'" in refusal.value.hint


def test_unknown_logger_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"track\.loggers cannot hold 'mlflow'") as refusal:
        TrackConfig(loggers=("wandb", "mlflow"))
    assert refusal.value.hint == "choose from: tensorboard, wandb, trackio"


def test_loggers_on_the_command_line_are_separated_by_commas() -> None:
    settings = resolve("demo", read_overrides(["--track.loggers", "wandb,tensorboard"]))
    assert settings.track.loggers == ("wandb", "tensorboard")
    assert build(type(settings), tomllib.loads(to_toml(settings))) == settings
