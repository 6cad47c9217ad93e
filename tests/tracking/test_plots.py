"""Pictures that show something."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from fledge.core.errors import UserError
from fledge.tracking.events import Event
from fledge.tracking.plots import PANELS, draw
from fledge.tracking.sinks import CSVSink


def a_run(folder: Path, events: list[Event]) -> Path:
    folder.mkdir(parents=True)
    sink = CSVSink(folder)
    for event in events:
        sink.record(event)
    sink.close()
    return folder


def colours(path: Path) -> int:
    pixels = (image.imread(path)[..., :3] * 7).round().astype(int)
    return len(np.unique(pixels @ [64, 8, 1]))


def coloured(path: Path) -> int:
    """How many pixels are neither white, black nor grey."""
    pixels = image.imread(path)[..., :3]
    return int((pixels.max(-1) - pixels.min(-1) > 0.2).sum())


def test_every_panel_is_a_picture_with_a_curve(tmp_path: Path, long_story: list[Event]) -> None:
    written = draw([a_run(tmp_path / "run", long_story)], tmp_path / "plots")
    names = {"loss", "learning-rate", "gradient-norm", "step-time", "throughput"}
    assert set(PANELS) == names
    assert {path.stem for path in written} == {*names, "all"}
    for path in written:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(image.imread(path).shape[:2]) > 300
        assert coloured(path) > 300, path


def test_several_runs_share_a_picture(tmp_path: Path, long_story: list[Event], events: list[Event]) -> None:
    one = a_run(tmp_path / "one", long_story)
    two = a_run(tmp_path / "two", events)
    alone, both = (draw(runs, tmp_path / str(len(runs))) for runs in ([one], [one, two]))
    for a, b in zip(alone, both, strict=True):
        assert colours(b) > colours(a)


def test_two_runs_of_one_name_are_both_drawn(tmp_path: Path, long_story: list[Event], events: list[Event]) -> None:
    one = a_run(tmp_path / "a" / "same", long_story)
    two = a_run(tmp_path / "b" / "same", events)
    alone, both = (draw(runs, tmp_path / str(len(runs))) for runs in ([two], [one, two]))
    assert colours(both[1]) > colours(alone[1])


def test_a_run_without_evaluations_is_drawn_too(tmp_path: Path, events: list[Event]) -> None:
    plain = [event for event in events if type(event).__name__ == "Stepped"]
    assert coloured(draw([a_run(tmp_path / "run", plain)], tmp_path / "plots")[0]) > 300


def test_a_run_that_has_only_begun_gives_empty_pictures(tmp_path: Path) -> None:
    assert len(draw([a_run(tmp_path / "run", [])], tmp_path / "plots")) == 6


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv"):
        draw([tmp_path], tmp_path / "plots")
