"""The live view of a run, redrawn in place: progress bar, metrics, curve with axes, samples through time. Needs rich.

    demo: 821,120 parameters on cpu, bfloat16      a bar, and how long it will take
    train, val                                     the latest metrics of each group
    ⠒ train  ● val  ◆ best                         the curve; in a wide terminal with the samples beside it
    samples                                        a line each for earlier ones, and the latest one

`train` shows it while it trains, and `watch` shows it from the run's folder. It fills a terminal of any size, but grows
no wider than is easy to read.
"""

from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fledge.core.formatting import counted, format_duration, printable, shorten
from fledge.tracking import chart
from fledge.tracking.events import (
    Anomaly,
    Ended,
    Event,
    Notice,
    RolledBack,
    Sample,
    Started,
    StepsPlanned,
    StoppedEarly,
)
from fledge.tracking.run_progress import RunProgress, describe_event
from fledge.tracking.terminal import SAMPLE_LINES, format_metrics, sample_lines, sample_title

STYLES = {"axis": "dim", "train": "cyan", "val": "bold magenta", "best": "bold green"}
WIDEST, WIDE = 180, 130  # the view grows no wider; from here on, samples stand beside the curve
BESIDE = 0.42  # of the width, for samples beside the curve
CURVE_ROWS, WIDE_ROWS, FEWEST_ROWS = 14, 20, 5  # of the curve, without its axis
AXIS_ROWS = 3  # its legend, and the axis below
MOST_LINES = SAMPLE_LINES + 5  # of the samples below the curve: earlier ones, and the latest


class LiveView:
    """Redrawn twice a second, from `Started` to the end: a drawing takes milliseconds, which training misses.

    watching: the run is trained by another process. What it has to say is then shown inside the view, and one that has
    ended may go on.
    """

    def __init__(self, console: Console, *, watching: bool = False) -> None:
        self._console, self._watching = console, watching
        self.progress = RunProgress()
        self._live = Live(console=console, get_renderable=self.draw, refresh_per_second=2)

    def record(self, event: Event, at: float | None = None, *, seen: bool = False) -> None:  # noqa: ARG002
        self.progress.update(event, at)
        if isinstance(event, Started):
            self._live.start()
        elif self._watching:
            return
        elif isinstance(event, Notice | Anomaly | RolledBack | StoppedEarly | StepsPlanned):
            if text := describe_event(event):
                self._console.print(_messages([text]))
        elif isinstance(event, Ended):
            self.close()

    def restart(self) -> None:
        """The events begin anew: those that follow are all of the run."""
        self.progress = RunProgress()

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def draw(self) -> RenderableType:
        progress = self.progress
        width = min(self._console.width, WIDEST)
        inner = width - 4
        parts: list[RenderableType] = [_bar(progress, inner)]
        shown = {name: value for name, value in progress.metrics.items() if name != "val/best"}  # it is in the curve
        if metrics := format_metrics(shown):
            parts.append(_metrics(metrics))
        if self._watching and progress.messages:
            parts.append(_messages(progress.messages))
        room = self._console.height - 3 - sum(self._height(part, inner) for part in parts)  # without border and cursor
        parts += self._curve_and_samples(inner, room)
        title = Text(progress.title)
        title.stylize("bold", 0, len(progress.start.run))
        return Panel(Group(*parts), title=title, width=width, border_style="dim")

    def _curve_and_samples(self, width: int, room: int) -> Iterable[RenderableType]:
        progress = self.progress
        if width >= WIDE and progress.samples and progress.train.points:
            beside = int(width * BESIDE)
            rows = max(FEWEST_ROWS, min(WIDE_ROWS, room - AXIS_ROWS - 1))
            grid = Table.grid(padding=(0, 3, 0, 0))
            left = _curve(progress, width - beside - 3, rows) or Text()
            grid.add_row(left, self._samples(beside, self._height(left, width)))
            return [Text(), grid]
        drawn: list[RenderableType] = []
        beside = FEWEST_ROWS + AXIS_ROWS + 2  # lines, empty ones among them
        sampled = max(0, min(room // 2, room - beside, MOST_LINES)) if progress.samples else 0
        rows = min(CURVE_ROWS, room - sampled - AXIS_ROWS - 2)
        if rows >= FEWEST_ROWS and (curve := _curve(progress, width, rows)):
            drawn += [Text(), curve]
            room -= self._height(curve, width) + 1
        if progress.samples and room >= 3:
            drawn += [Text(), self._samples(width, min(room - 1, MOST_LINES))]
        return drawn

    def _height(self, part: RenderableType, width: int) -> int:
        return len(self._console.render_lines(part, self._console.options.update(width=width)))

    def _samples(self, width: int, room: int) -> RenderableType:
        """Generated text is shown as it is: never taken for markup or terminal codes. Long lines are wrapped."""
        *before, latest = self.progress.samples
        lines = [_earlier(sample, width) for sample in spread(before, max(0, min(room // 2, room - SAMPLE_LINES - 1)))]
        title = sample_title(latest)
        lines.append(Text(f"{title} {'─' * max(0, width - len(title) - 1)}", style="dim"))
        shown = Text("\n".join(sample_lines(latest)))
        prompt = printable(latest.prompt)
        if not shown.plain.startswith(prompt):  # a prompt that ends in a separator of lines
            prompt = ""
        shown.stylize("dim", 0, len(prompt))
        wrapped = shown.wrap(self._console, width, overflow="fold")
        return Text("\n").join([*lines, *wrapped[: max(1, room - len(lines))]])


def spread(samples: list[Sample], count: int) -> list[Sample]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(samples) <= count:
        return samples
    if count < 2:
        return samples[:count]
    return [samples[round(number * (len(samples) - 1) / (count - 1))] for number in range(count)]


def _bar(progress: RunProgress, width: int) -> RenderableType:
    left = progress.seconds_left() if progress.step < progress.steps else None
    if progress.ended:
        state = f" · {progress.ended.reason} after {format_duration(progress.ended.seconds)}"
    elif left:
        state = f" · {format_duration(left)} left"
    else:
        state = f" · {progress.activity}" if progress.activity else ""
    rollbacks = f" · {counted(progress.rollbacks, 'rollback')}" if progress.rollbacks else ""
    text = f" {progress.step:,} / {progress.steps:,}{rollbacks}{state}"
    grid = Table.grid()
    bar = ProgressBar(
        total=max(1, progress.steps),
        completed=progress.step,
        width=max(10, width - len(text)),
        style="dim",
        complete_style="cyan",
        finished_style="green",
    )
    grid.add_row(bar, Text(text))
    return grid


def _messages(messages: Iterable[str]) -> Text:
    return Text("\n").join(Text(each, style="yellow" if each.startswith("warning") else "dim") for each in messages)


def _metrics(groups: dict[str, str]) -> RenderableType:
    """A line for each group of metrics: `train`, `val`, …"""
    table = Table.grid(padding=(0, 2, 0, 0))
    for group, text in sorted(groups.items()):
        table.add_row(Text(group, style="dim"), Text(text))
    return table


def _curve(progress: RunProgress, width: int, height: int) -> Text | None:
    best = (progress.best.step, progress.best.value) if progress.best else None
    train, val = progress.train.all, progress.val.all
    rows = chart.draw(train, val, best, width, height)
    if not rows:
        return None
    what = "reward" if progress.is_rewarded else "loss"
    scale = ", log scale" if chart.value_axis([value for _, value in (*train, *val)]).log else ""
    legend = [(f"⠒ train {what}", "train"), (f"{chart.VAL} val", "val")][: 1 + bool(val)]
    if progress.best:
        legend.append((f"{chart.BEST} best {progress.best.value:.4f} at step {progress.best.step:,}", "best"))
    title = Text("   ").join(Text(text, style=STYLES[role]) for text, role in legend)
    title.append(scale, style="dim")
    return Text("\n").join([title, *(Text.assemble(*((text, STYLES[role]) for text, role in row)) for row in rows)])


def _earlier(sample: Sample, width: int) -> Text:
    """A line: the step, and what the model wrote."""
    text = " ".join(printable(sample.text).split())
    step = f"{f'step {sample.step:,}':<12} "
    return Text.assemble((step, "dim"), shorten(text, width - len(step)))
