"""samples.md: what the model generated during training, as a page to read."""

import re
from pathlib import Path

from fledge.core.files import write_atomic
from fledge.tracking.events import Event, Sample
from fledge.tracking.sinks.base import RunFile
from fledge.tracking.sinks.jsonl import read_events

SAMPLES = "samples.md"


class SamplesSink:
    def __init__(self, folder: Path) -> None:
        self._file = RunFile(folder / SAMPLES)

    def record(self, event: Event) -> None:
        if isinstance(event, Sample):
            self._file.append(format_sample(event.step, event.prompt + event.text, event.reward))

    def close(self) -> None:
        self._file.close()


def format_sample(step: int, text: str, reward: float | None = None) -> str:
    """A heading, and the text in a Markdown fence that is longer than any fence inside it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    rewarded = "" if reward is None else f", reward {reward:.4g}"
    return f"## Step {step}{rewarded}\n\n{fence}\n{text}\n{fence}\n\n"


def rewrite_samples(folder: Path) -> None:
    """Rewrite samples.md from events.jsonl. The page itself cannot be cut: a sample may contain headings."""
    if (folder / SAMPLES).exists():
        samples = (event for event in read_events(folder) if event["event"] == Sample.__name__)
        page = [format_sample(each["step"], each["prompt"] + each["text"], each.get("reward")) for each in samples]
        write_atomic(folder / SAMPLES, "".join(page))
