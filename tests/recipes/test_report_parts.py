"""Parts of a report: sessions and incidents from events, commands, samples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.config import to_layer
from fledge.recipes.report_parts import (
    Events,
    align_command,
    events_of,
    incidents_of,
    samples_of,
    sessions_of,
    setting_changes,
    text_words,
)
from fledge.runs.run_folder import RunFolder
from fledge.settings.layers import read_align_preset
from fledge.settings.pipeline import resolve
from fledge.tracking.events import Anomaly, CompileChecked, Ended, Event, Metrics, Notice, RolledBack, Sample, Started
from fledge.tracking.sinks.jsonl import JSONLSink


def start(step: int) -> Started:
    return Started("r", step, 100, 1, "cpu", "float32", False)


def recorded(folder: Path, events: Sequence[Event]) -> Events:
    sink = JSONLSink(folder)
    for event in events:
        sink.record(event)
    sink.close()
    return events_of(RunFolder(folder))


BACK = RolledBack(10, 13, "the loss jumped", (10, 12))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([start(0), Ended(100, "finished", 9.0, 5)], [(0, 100, "finished")]),
        ([start(0), Metrics(5, {})], [(0, None, "killed")]),
        ([start(0), start(50), Ended(100, "finished", 9.0)], [(0, None, "killed"), (50, 100, "finished")]),
        ([start(0), start(10), BACK, Ended(100, "finished", 9.0)], [(0, 100, "finished")]),
        (
            [start(0), Ended(50, "interrupted", 1.0), start(50), start(10), BACK],
            [(0, 50, "interrupted"), (50, None, "killed")],
        ),
        ([Ended(50, "interrupted", 1.0)], []),
    ],
)
def test_sessions_are_the_processes_of_a_run(tmp_path: Path, events: list[Event], expected: list[tuple]) -> None:
    found = sessions_of(recorded(tmp_path, events), "killed")
    assert [(each.first_step, each.last_step, each.reason) for each in found] == expected


def test_last_session_of_a_running_run_is_running(tmp_path: Path) -> None:
    assert sessions_of(recorded(tmp_path, [start(0)]), "running")[-1].reason == "running"


def test_incidents_say_what_happened_and_say_it_once(tmp_path: Path) -> None:
    events = [
        start(0),
        Notice(0, "val is a sample"),
        *(Notice(step, "warning: every answer has the reward 0") for step in (1, 2, 3)),
        CompileChecked(1, False, "the loss differs"),
        Anomaly(13, "loss spike", "blocks.0", 9.123456, 2.0, (7, 8)),
        start(10),
        BACK,
        Ended(50, "interrupted", 1.0),
        start(50),
    ]
    found = incidents_of(recorded(tmp_path, events))
    assert [(each.kind, each.step, each.last_step) for each in found] == [
        ("warning", 1, 3),
        ("warning", 1, None),
        ("anomaly", 13, None),
        ("rollback", 10, None),
        ("started again", 50, None),
    ]
    assert found[2].text == "loss spike, first at blocks.0; loss 9.123, gradient norm 2; samples 7 to 8"


def test_samples_are_spread_over_the_run(tmp_path: Path) -> None:
    found = samples_of(recorded(tmp_path, [Sample(step, "p", "t") for step in range(101)]))
    assert len(found) == 8
    assert (found[0].step, found[-1].step) == (0, 100)


def test_command_of_an_alignment_run_names_what_differs_from_the_preset() -> None:
    preset = read_align_preset("grpo")
    align = {"method": "grpo", "init": "helper@20", "data": ["addition"], "reward": ["a b.py"], "reward_weights": [0.5]}
    model = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 24, "vocab_size": 64, "lora": 4}
    config = {**preset, "model": model, "align": align, "train": {**preset["train"], "steps": 7, "seed": 5}}
    command = align_command(config)
    assert command.startswith("fledge align grpo --init helper@20 --data addition --reward 'a b.py=0.5'")
    assert "--train.seed 5" in command
    assert command.endswith("--lora 4")
    assert "--model" not in command


def test_text_of_a_run_is_named_with_how_it_was_read() -> None:
    data = {"corpus": ["notes/", "b.txt"], "path": "/gone", "val": 0.1, "dedup": True, "stride": 5}
    assert text_words({"data": data}) == ["notes/", "b.txt", "--data.dedup", "true", "--data.val", "0.1"]
    assert text_words({"data": {"path": "/gone"}}) == []


def test_steps_of_a_run_in_epochs_are_no_setting_of_its_preset() -> None:
    whole = resolve("smallgpt-shakespeare")
    config = to_layer(replace(whole, train=replace(whole.train, steps=900, epochs=None)))
    (change,) = [each for each in setting_changes(config, "smallgpt-shakespeare") if each.name == "train.steps"]
    assert (change.preset, change.run) == (None, 900)
