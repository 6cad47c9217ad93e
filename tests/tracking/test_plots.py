"""Figures of runs, checked by their pixels."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fledge.core.errors import UserError
from fledge.tracking import plots
from fledge.tracking.events import Event, Metrics
from fledge.tracking.plots import _draw_panel, draw
from fledge.tracking.sinks.csv import CSVSink, MetricsTable


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


def loss_panel(losses: list[float], **columns: list[float]) -> Axes:
    """The axes of the loss figure of a run with these validation losses, 100 steps apart."""
    axes = Figure().subplots()
    table = MetricsTable({"step": [100.0 * n for n in range(len(losses))], "val/loss": losses, **columns})
    _draw_panel(axes, [("run", table)], "loss", [name for name in table if name in ("val/loss", "val_whole/loss")])
    return axes


def test_first_value_does_not_squash_the_curve() -> None:
    axes = loss_panel([7.0, 3.5, 3.2, 3.0])
    assert 3.5 < axes.get_ylim()[1] < 4
    assert axes.get_ylabel() == "loss (nats per token); starts at 7"


def test_curve_that_falls_slowly_is_drawn_whole() -> None:
    axes = loss_panel([3.6, 3.5, 3.2, 3.0])
    assert axes.get_ylim()[1] >= 3.6
    assert axes.get_ylabel() == "loss (nats per token)"


def test_sample_and_whole_split_are_named() -> None:
    nan = float("nan")
    whole = {"val_whole/loss": [nan, nan, nan, 3.1], "val/fraction": [0.2] * 4, "val/loss_margin": [nan, 0.1, 0.1, 0.1]}
    axes = loss_panel([3.6, 3.5, 3.2, 3.0], **whole)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "val, sample (95 % interval)",
        "val, whole split",
    ]
    assert len(axes.collections) == 1, "the 95 % interval"


def test_runs_with_other_tokenizers_are_compared_by_bits_per_byte(tmp_path: Path, events: list[Event]) -> None:
    runs = [make_run(tmp_path / name, events) for name in ("one", "two")]
    written = {path.stem for path in draw(runs, tmp_path / "plots", same_tokenizer=False)}
    assert "bits_per_byte" in written
    assert not written & {"loss", "perplexity", "accuracy"}


def test_few_whole_numbers_of_a_sweep_stand_side_by_side() -> None:
    assert plots._positions([12, 2, 2, 4], logarithmic=False) == ([2.0, 0.0, 0.0, 1.0], ["2", "4", "12"])
    assert plots._positions(["b", "a"], logarithmic=False) == ([1.0, 0.0], ["a", "b"])
    assert plots._positions([True, False], logarithmic=False) == ([1.0, 0.0], ["False", "True"])
    assert plots._positions([1e-3, 1e-2], logarithmic=True) == ([1e-3, 1e-2], [])
    assert plots._positions([0, 0.1], logarithmic=False) == ([0.0, 0.1], [])
    assert plots._positions([1, 10], logarithmic=True) == ([1.0, 10.0], [])
    assert plots._positions(list(range(9)), logarithmic=False)[1] == []


def test_figure_of_a_sweep_has_a_panel_for_each_setting(tmp_path: Path) -> None:
    tried = {
        "optim.lr": [1e-3, 2e-3],
        "model.n_layer": [2, 4],
        "model.mlp": ["gelu", "relu"],
        "train.compile": [True, True],
    }
    assert plots.scatter(tried, [3.0, 2.0], ["optim.lr"], "val/loss", tmp_path) == tmp_path / "sweep.png"
    assert (tmp_path / "sweep.png").stat().st_size > 1000
