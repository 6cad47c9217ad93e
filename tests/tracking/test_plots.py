"""Figures of runs, checked by their pixels."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from fledge.core.errors import UserError
from fledge.tracking.events import Event, Metrics
from fledge.tracking.plots import draw
from fledge.tracking.sinks.csv import CSVSink


def make_run(folder: Path, events: list[Event]) -> Path:
    folder.mkdir(parents=True)
    sink = CSVSink(folder)
    for event in events:
        sink.record(event)
    sink.close()
    return folder


def color_count(path: Path) -> int:
    pixels = (image.imread(path)[..., :3] * 7).round().astype(int)
    return len(np.unique(pixels @ [64, 8, 1]))


def colored_pixels(path: Path) -> int:
    """The number of pixels that are neither white, black nor grey."""
    pixels = image.imread(path)[..., :3]
    return int((pixels.max(-1) - pixels.min(-1) > 0.2).sum())


def test_every_metric_has_a_figure_with_a_curve(tmp_path: Path, many_events: list[Event]) -> None:
    kl = [Metrics(step, {"ppo/kl": step / 10}) for step in range(60)]
    written = draw([make_run(tmp_path / "run", [*many_events, *kl])], tmp_path / "plots")
    names = {"loss", "lr", "grad_norm", "step_seconds", "tokens_per_second", "perplexity", "bits_per_byte", "accuracy"}
    assert {path.stem for path in written} == {*names, "ppo-kl", "all"}
    for path in written:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(image.imread(path).shape[:2]) > 300
        assert colored_pixels(path) > 300, path


def test_several_runs_share_a_figure(tmp_path: Path, many_events: list[Event], events: list[Event]) -> None:
    one = make_run(tmp_path / "one", many_events)
    two = make_run(tmp_path / "two", events)
    alone, both = (draw(runs, tmp_path / str(len(runs))) for runs in ([one], [one, two]))
    for a, b in zip(alone, both, strict=True):
        assert color_count(b) > color_count(a)


def test_runs_of_the_same_name_are_both_drawn(tmp_path: Path, many_events: list[Event], events: list[Event]) -> None:
    one = make_run(tmp_path / "a" / "same", many_events)
    two = make_run(tmp_path / "b" / "same", events)
    alone, both = (draw(runs, tmp_path / str(len(runs))) for runs in ([two], [one, two]))
    assert color_count(both[1]) > color_count(alone[1])


def test_run_without_evaluations_is_drawn(tmp_path: Path, events: list[Event]) -> None:
    plain = [event for event in events if isinstance(event, Metrics) and "train/loss" in event.values]
    assert colored_pixels(draw([make_run(tmp_path / "run", plain)], tmp_path / "plots")[0]) > 300


def test_run_without_metrics_is_refused(tmp_path: Path, events: list[Event]) -> None:
    empty = make_run(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no metrics yet"):
        draw([empty], tmp_path / "plots")
    assert draw([empty, make_run(tmp_path / "run", events)], tmp_path / "plots")


def test_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv"):
        draw([tmp_path], tmp_path / "plots")
