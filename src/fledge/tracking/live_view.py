"""The live view of a run, redrawn in place: progress bar, latest metrics, loss curve, latest sample. Needs rich."""

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fledge.core.formatting import format_duration
from fledge.tracking.events import Anomaly, Ended, Event, Notice, RolledBack, Sample, Started
from fledge.tracking.terminal import SAMPLE_LINES, RunProgress, describe_event, format_metrics, sample_lines, sparkline


class LiveView:
    """Redrawn four times a second from `Started` to `Ended`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = RunProgress()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4)

    def record(self, event: Event) -> None:
        self._progress.update(event)
        if isinstance(event, Started):
            self._live.start()
        elif isinstance(event, Notice | Anomaly | RolledBack):
            self._console.print(Text(describe_event(event), style="yellow"))
        elif isinstance(event, Ended):
            self.close()

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def _draw(self) -> RenderableType:
        progress = self._progress
        width = max(20, min(self._console.width, 100) - 4)
        parts: list[RenderableType] = [_bar(progress, width)]
        if progress.metrics:
            parts.append(_metrics(progress))
        if progress.losses:
            parts.append(Text(sparkline(progress.losses, width), style="cyan"))
        if progress.sample:
            parts.append(_sample(progress.sample, self._console, width))
        return Panel(Group(*parts), title=Text(progress.title, style="bold"), width=width + 4, border_style="dim")


def _bar(progress: RunProgress, width: int) -> RenderableType:
    left = progress.seconds_left() if progress.step < progress.steps else None
    remaining = f" · {format_duration(left)} left" if left else ""
    doing = f" · {progress.activity}" if progress.activity and not remaining else ""
    text = f" {progress.step:,} / {progress.steps:,}{remaining}{doing}"
    grid = Table.grid()
    bar = ProgressBar(total=max(1, progress.steps), completed=progress.step, width=max(10, width - len(text)))
    grid.add_row(bar, Text(text))
    return grid


def _metrics(progress: RunProgress) -> RenderableType:
    """A line for each group of metrics: `train`, `val`, …"""
    table = Table.grid(padding=(0, 2, 0, 0))
    for group, text in sorted(format_metrics(progress.metrics).items()):
        table.add_row(Text(group, style="dim"), Text(text))
    return table


def _sample(sample: Sample, console: Console, width: int) -> RenderableType:
    """Generated text is shown as it is: never taken for markup or terminal codes. Long lines are wrapped."""
    wrapped = Text("\n".join(sample_lines(sample))).wrap(console, width - 4, overflow="fold")
    return Panel(
        Text("\n").join(wrapped[:SAMPLE_LINES]), title=f"sample after step {sample.step:,}", border_style="green"
    )
