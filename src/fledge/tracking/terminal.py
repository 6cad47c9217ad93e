"""The run in the terminal, on stderr: a live view where the terminal can redraw, plain lines anywhere else."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from fledge.core.formatting import format_duration, printable
from fledge.core.progress import terminal_console
from fledge.tracking.events import (
    Anomaly,
    Ended,
    Event,
    Metrics,
    Notice,
    RolledBack,
    Sample,
    Started,
    StepsPlanned,
    StoppedEarly,
)
from fledge.tracking.run_progress import ROLLOUT_REWARD, RunProgress, describe_event

if TYPE_CHECKING:
    from fledge.tracking.live_view import LiveView

HIDDEN = {"tokens", "step_seconds", "perplexity", "seconds", "loss_margin", "fraction", "reward_error"}
HIDDEN_GROUPS = {"time", "stats"}  # for figures and tables: too many for a line
GROUPS = {"val_whole": "val, whole split", "val_best": "val, whole split, best"}
FORMATS = {
    "loss": "loss {:.4f}",
    "lr": "lr {:.2e}",
    "grad_norm": "grad norm {:.2f}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.0%}",
    "best": "best {:.4f}",
    "bits_per_byte": "bits per byte {:.4f}",
    "accuracy": "accuracy {:.1%}",
    "step": "step {:,.0f}",
    "epoch": "epoch {:.2f}",
    "reward": "reward {:.4f}",
    "length": "length {:.1f}",
    "truncated": "cut off {:.1%}",
    "exact_match": "exact {:.1%}",
    "clip_fraction": "clipped {:.1%}",
    "zero_variance_groups": "groups without variance {:.1%}",
    "chosen_logprob": "chosen log-prob {:.2f}",
    "rejected_logprob": "rejected log-prob {:.2f}",
}
SAMPLE_LINES = 9


def format_metrics(values: Mapping[str, float]) -> dict[str, str]:
    """A line for each group of names: `train` → `loss 2.3456  lr 1.00e-03`. Unknown names are shown as they are.

    The loss of a sample has its 95 % interval: `loss 2.3456 ± 0.0123`; a mean reward, too.
    """
    groups: dict[str, str] = {}
    for name, value in values.items():
        group, _, metric = name.rpartition("/")
        if group.partition("/")[0] in HIDDEN_GROUPS:
            continue
        if metric in HIDDEN or (group == "val_best" and values.get("val_whole/loss") == values["val_best/loss"]):
            continue
        if metric == "tokens_per_second" and ROLLOUT_REWARD in values:
            continue  # few steps generate, the others are fast: no speed of the run
        shown = FORMATS[metric].format(value) if metric in FORMATS else f"{metric.replace('_', ' ')} {value:.4g}"
        if metric in ("loss", "reward") and (margin := interval(values, name)):
            shown += f" ± {margin:.4f}"
        group = GROUPS.get(group, group)
        groups[group] = f"{groups[group]}  {shown}" if group in groups else shown
    return groups


def interval(values: Mapping[str, float], name: str) -> float:
    """Half the 95 % interval of a mean that was measured on a sample; 0: not known."""
    return values.get(f"{name}_margin") or 1.96 * values.get(f"{name}_error", 0.0)


def sample_title(sample: Sample) -> str:
    rewarded = "" if sample.reward is None else f", reward {sample.reward:.4g}"
    return f"sample after step {sample.step:,}{rewarded}"


def sample_lines(sample: Sample) -> list[str]:
    """The lines of a sample, safe to print."""
    return printable(sample.prompt + sample.text).splitlines()


class LineView:
    """Plain lines for logs and pipes. Training metrics appear at most once every `interval` seconds."""

    def __init__(self, stream: TextIO, interval: float = 5.0) -> None:
        self._stream = stream
        self._progress = RunProgress()
        self._interval = interval
        self._last_training_line = 0.0  # when it was printed

    def record(self, event: Event, at: float | None = None, *, seen: bool = False) -> None:
        """at: when it happened; None: now. seen: it has been printed before."""
        self._progress.update(event, at)
        if seen:
            return
        match event:
            case Started():
                self._print(self._progress.title)
                self._last_training_line = self._progress.now
            case Metrics():
                self._print_metrics(event)
            case Sample():
                self._print(f"{sample_title(event)}:\n    " + "\n    ".join(sample_lines(event)[:SAMPLE_LINES]))
            case Notice() | Anomaly() | RolledBack() | StoppedEarly() | StepsPlanned():
                if text := describe_event(event):
                    self._print(text)
            case Ended():
                self._print(f"{event.reason} at step {event.step:,} after {format_duration(event.seconds)}")

    def _print_metrics(self, event: Metrics) -> None:
        """Groups of training (`train`, `rollout`, `ppo`) together, and not always; those of evaluations always."""
        steps, groups = self._progress.steps, format_metrics(event.values)
        if text := groups.pop("train", None):
            now = self._progress.now
            if now - self._last_training_line <= self._interval and event.step != steps:
                groups = {group: text for group, text in groups.items() if group.startswith("val")}
            else:
                left = self._progress.seconds_left()
                rest = f"  {format_duration(left)} left" if left and event.step < steps else ""
                self._print(f"step {event.step:,}/{steps:,}  {text}{rest}")
                self._last_training_line = now
        for group, text in groups.items():
            self._print(f"step {event.step:,}  {group}  {text}")

    def restart(self) -> None:
        """The events begin anew: those that follow are all of the run."""
        self._progress = RunProgress()

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None: ...


def terminal_view(stream: TextIO, *, watching: bool = False) -> "LiveView | LineView":
    """The live view where rich is installed and the terminal can move its cursor and is large enough.

    watching: another process trains the run.
    """
    console = terminal_console(stream)
    if console is None or console.is_dumb_terminal or console.width < 40 or console.height < 16:
        return LineView(stream)
    from fledge.tracking.live_view import LiveView

    return LiveView(console, watching=watching)
