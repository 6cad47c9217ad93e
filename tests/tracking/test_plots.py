"""Figures of runs, checked by their pixels."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fledge.core.errors import UserError
from fledge.tracking import sweep_figure
from fledge.tracking.events import Event, Metrics, RolledBack
from fledge.tracking.panels import RunCurves, panels_of
from fledge.tracking.plots import BY_STEP, PlotStyle, _draw_panel, _Drawing, draw
from fledge.tracking.sinks.csv import CSVSink
from fledge.tracking.sinks.jsonl import JSONLSink


def make_run(folder: Path, events: list[Event]) -> Path:
    folder.mkdir(parents=True)
    for sink in (CSVSink(folder), JSONLSink(folder)):
        for event in events:
            sink.record(event)
        sink.close()
    return folder


def losses_of(events: list[Event]) -> list[Event]:
    """Fewer metrics, where the kind of figure does not matter: each takes a second to draw."""
    losses = [
        {k: v for k, v in each.values.items() if k.endswith("/loss")} for each in events if isinstance(each, Metrics)
    ]
    steps = [each.step for each in events if isinstance(each, Metrics)]
    return [Metrics(step, values) for step, values in zip(steps, losses, strict=True)]


def color_count(path: Path) -> int:
    pixels = (image.imread(path)[..., :3] * 7).round().astype(int)
    return len(np.unique(pixels @ [64, 8, 1]))


def colored_pixels(path: Path) -> int:
    """The number of pixels that are neither white, black nor grey."""
    pixels = image.imread(path)[..., :3]
    return int((pixels.max(-1) - pixels.min(-1) > 0.2).sum())


def test_every_metric_has_a_figure_with_a_curve(tmp_path: Path, many_events: list[Event]) -> None:
    kl = [Metrics(step, {"ppo/kl": step / 10}) for step in range(61, 120)]
    written = draw([make_run(tmp_path / "run", [*many_events, *kl])], tmp_path / "plots")
    names = {"loss", "lr", "grad_norm", "step_seconds", "tokens_per_second", "perplexity", "bits_per_byte", "accuracy"}
    assert {path.stem for path in written} == {*names, "kl", "all"}
    for path in written:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert min(image.imread(path).shape[:2]) > 300
        assert colored_pixels(path) > 300, path


def test_several_runs_share_a_figure(tmp_path: Path, many_events: list[Event], events: list[Event]) -> None:
    one = make_run(tmp_path / "one", losses_of(many_events))
    two = make_run(tmp_path / "two", losses_of(events))
    alone, both = (draw(runs, tmp_path / str(len(runs))) for runs in ([one], [one, two]))
    for a, b in zip(alone, both, strict=True):
        assert color_count(b) > color_count(a)


def test_runs_of_the_same_name_are_both_drawn(tmp_path: Path, many_events: list[Event], events: list[Event]) -> None:
    one = make_run(tmp_path / "a" / "same", losses_of(many_events))
    two = make_run(tmp_path / "b" / "same", losses_of(events))
    alone, both = (draw(runs, tmp_path / str(len(runs))) for runs in ([two], [one, two]))
    assert color_count(both[0]) > color_count(alone[0])


def test_run_without_evaluations_is_drawn(tmp_path: Path, events: list[Event]) -> None:
    plain = [event for event in events if isinstance(event, Metrics) and "train/loss" in event.values]
    assert colored_pixels(draw([make_run(tmp_path / "run", plain)], tmp_path / "plots")[0]) > 300


def test_run_without_metrics_is_refused(tmp_path: Path, events: list[Event], capsys) -> None:
    empty = make_run(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no metrics yet"):
        draw([empty], tmp_path / "plots")
    assert draw([empty, make_run(tmp_path / "run", losses_of(events))], tmp_path / "plots")
    assert "'empty' has no metrics yet" in capsys.readouterr().err


def test_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.csv"):
        draw([tmp_path], tmp_path / "plots")


def panel_axes(columns: dict[str, list[float]], panel: str = "loss", rollbacks: list[float] | None = None) -> Axes:
    """The axes of one figure of a run with these metrics, a row every 100 steps."""
    axes = Figure().subplots()
    steps = 100.0 * np.arange(len(next(iter(columns.values()))))
    run = RunCurves("run", {"step": steps, **{name: np.array(each) for name, each in columns.items()}}, steps)
    [found] = [each for each in panels_of([run]) if each.name == panel]
    _draw_panel(axes, found, _Drawing([run], [rollbacks or []], BY_STEP, "step"))
    return axes


def loss_panel(losses: list[float], **columns: list[float]) -> Axes:
    return panel_axes({"val/loss": losses, **columns})


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [text.get_text() for text in found.get_texts()] if found else []


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
    assert legend(axes) == ["val, sample (95 % interval)", "best: 3", "val, whole split"]
    assert len(axes.collections) == 1, "the 95 % interval"


def test_runs_with_other_tokenizers_are_compared_by_bits_per_byte(tmp_path: Path, events: list[Event]) -> None:
    runs = [make_run(tmp_path / name, events) for name in ("one", "two")]
    written = {path.stem for path in draw(runs, tmp_path / "plots", same_tokenizer=False)}
    assert "bits_per_byte" in written
    assert not written & {"loss", "perplexity", "accuracy"}


def test_best_point_is_marked_where_lower_or_higher_is_better() -> None:
    assert "best: 2.5" in legend(loss_panel([4.0, 2.5, 3.0]))
    assert "best: 0.7" in legend(panel_axes({"val/accuracy": [0.1, 0.7, 0.6]}, "accuracy"))
    assert legend(panel_axes({"train/lr": [0.1, 0.7, 0.6]}, "lr")) == []


def test_rollback_is_a_line_at_its_step(tmp_path: Path) -> None:
    axes = panel_axes({"train/loss": [3.0, 2.0, 1.0], "val/loss": [3.0, 2.0, 1.5]}, rollbacks=[100.0])
    assert legend(axes)[-1] == "rolled back"
    plain: list[Event] = [Metrics(step, {"train/loss": 1.0 / step}) for step in (1, 2, 3)]
    rolled = [*plain[:2], RolledBack(1, 2, "loss spike", (1, 2)), plain[2]]
    runs = [make_run(tmp_path / name, each) for name, each in (("a", plain), ("b", rolled))]
    one, two = (draw([run], tmp_path / f"{run.name}-plots")[0] for run in runs)
    assert one.read_bytes() != two.read_bytes()


def test_smoothed_curve_stands_over_the_raw_one(tmp_path: Path, many_events: list[Event]) -> None:
    run = make_run(tmp_path / "run", losses_of(many_events))
    styles = {"raw": PlotStyle(formats=("svg",)), "smooth": PlotStyle(smooth=0.9, formats=("svg",))}
    raw, smoothed = (draw([run], tmp_path / name, style=style) for name, style in styles.items())
    assert smoothed[0].read_text().count("<path") > raw[0].read_text().count("<path")


def test_not_finite_values_are_left_out() -> None:
    nan, inf = float("nan"), float("inf")
    axes = panel_axes({"train/loss": [5.0, nan, 3.0, inf, 2.0]})
    assert axes.lines[0].get_ydata().tolist() == [5.0, 3.0, 2.0]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_same_metrics_give_the_same_file(kind: str, tmp_path: Path, events: list[Event]) -> None:
    run, style = make_run(tmp_path / "run", losses_of(events)), PlotStyle(formats=(kind,))
    one, two = (draw([run], tmp_path / name, style=style) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_text_of_svg_and_pdf_stays_text(tmp_path: Path, events: list[Event]) -> None:
    written = draw(
        [make_run(tmp_path / "run", losses_of(events))], tmp_path / "plots", style=PlotStyle(formats=("svg", "pdf"))
    )
    assert "loss (nats per token)" in written[0].read_text()
    assert b"/FontFile2" in written[1].read_bytes(), "a TrueType font, not outlines"
    assert written[-2].name == "all.svg"


@pytest.mark.parametrize(("layers", "meshes"), [(3, 0), (12, 1)])
def test_layers_are_lines_or_a_heat_map(layers: int, meshes: int) -> None:
    columns = {f"stats/grad_norm/blocks.{n}": [1.0 + n, 2.0, 3.0] for n in range(layers)}
    axes = panel_axes(columns, "stats_grad_norm")
    assert len(axes.collections) == meshes
    assert len(axes.lines) == (0 if meshes else layers)


def test_layers_and_parts_of_a_step_have_a_figure_for_each_run(tmp_path: Path) -> None:
    metrics = [
        Metrics(step, {"stats/grad_norm/blocks.0": 1.0, "time/data": 0.1, "time/saving": 1.0}) for step in (1, 2)
    ]
    runs = [make_run(tmp_path / name, metrics) for name in ("one", "two")]
    written = {path.stem for path in draw(runs, tmp_path / "plots")}
    names = ("stats_grad_norm", "time", "time_beside")
    assert written == {"all", *(f"{name}-{run}" for name in names for run in ("one", "two"))}


def test_axis_that_was_not_recorded_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [Metrics(1, {"train/loss": 1.0})])
    with pytest.raises(UserError, match="no record of its tokens"):
        draw([run], tmp_path / "plots", style=PlotStyle(x="tokens"))


def test_notebook_keeps_its_style_and_backend(tmp_path: Path, events: list[Event]) -> None:
    before = dict(matplotlib.rcParams)
    draw([make_run(tmp_path / "run", losses_of(events))], tmp_path / "plots")
    assert dict(matplotlib.rcParams) == before


def test_few_whole_numbers_of_a_sweep_stand_side_by_side() -> None:
    assert sweep_figure._positions([12, 2, 2, 4], logarithmic=False) == ([2.0, 0.0, 0.0, 1.0], ["2", "4", "12"])
    assert sweep_figure._positions(["b", "a"], logarithmic=False) == ([1.0, 0.0], ["a", "b"])
    assert sweep_figure._positions([True, False], logarithmic=False) == ([1.0, 0.0], ["False", "True"])
    assert sweep_figure._positions([1e-3, 1e-2], logarithmic=True) == ([1e-3, 1e-2], [])
    assert sweep_figure._positions([0, 0.1], logarithmic=False) == ([0.0, 0.1], [])
    assert sweep_figure._positions([1, 10], logarithmic=True) == ([1.0, 10.0], [])
    assert sweep_figure._positions(list(range(9)), logarithmic=False)[1] == []


def test_figure_of_a_sweep_has_a_panel_for_each_setting(tmp_path: Path) -> None:
    tried = {
        "optim.lr": [1e-3, 2e-3],
        "model.n_layer": [2, 4],
        "model.mlp": ["gelu", "relu"],
        "train.compile": [True, True],
    }
    assert sweep_figure.scatter(tried, [3.0, 2.0], ["optim.lr"], "val/loss", tmp_path) == tmp_path / "sweep.png"
    assert (tmp_path / "sweep.png").stat().st_size > 1000
