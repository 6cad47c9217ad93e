"""The live view of a run: redrawn in place, on a terminal that can. Needs rich."""

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fledge.core.formatting import format_duration, printable
from fledge.tracking.events import Anomaly, Ended, Event, Notice, RolledBack, Sampled, Started
from fledge.tracking.terminal import RunProgress, news, sparkline


class LiveView:
    """Redrawn four times a second while the run lasts."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._story = RunProgress()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=False)

    def record(self, event: Event) -> None:
        self._story.hear(event)
        if isinstance(event, Started):
            self._live.start()
        elif isinstance(event, Notice | Anomaly | RolledBack):
            self._console.print(Text(news(event), style="yellow"))
        elif isinstance(event, Ended):
            self.close()

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def _draw(self) -> RenderableType:
        story = self._story
        width = max(20, min(self._console.width, 100) - 4)
        parts: list[RenderableType] = [_progress(story, width)]
        if story.last:
            parts += [_numbers(story), Text(sparkline(story.losses, width), style="cyan")]
        if story.sample:
            parts.append(_sample(story.sample))
        return Panel(Group(*parts), title=Text(story.title, style="bold"), width=width + 4, border_style="dim")


def _progress(story: RunProgress, width: int) -> RenderableType:
    left = story.remaining()
    words = f" {story.step:,} / {story.steps:,}" + (
        f" · {format_duration(left)} left" if left is not None else " · starting"
    )
    grid = Table.grid()
    bar = ProgressBar(total=max(1, story.steps), completed=story.step, width=max(10, width - len(words)))
    grid.add_row(bar, Text(words))
    return grid


def _numbers(story: RunProgress) -> RenderableType:
    assert story.last
    cells = {"loss": f"{story.last.loss:.3f}"}
    if story.judged:
        cells |= {"validation": f"{story.judged.loss:.3f}", "best": f"{story.best:.3f}"}
    cells |= {
        "rate": f"{story.last.lr:.2e}",
        "gradient": f"{story.last.grad_norm:.2f}",
        "tokens/s": f"{story.last.tokens_per_second:,.0f}",
    }
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in cells:
        table.add_column(name, style="bold", header_style="dim")
    table.add_row(*cells.values())
    return table


def _sample(sample: Sampled) -> RenderableType:
    """The model's words as plain text: nothing in them is taken for markup or for terminal codes."""
    lines = printable(sample.prompt + sample.text).splitlines()[:9]
    title = f"what it writes after step {sample.step}"
    return Panel(Text("\n".join(lines), overflow="crop", no_wrap=True), title=title, border_style="green")
