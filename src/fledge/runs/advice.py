"""What to do next with a finished run, where something stands out: a line each, with the command."""

import math
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fledge.datasets.splits import small_validation_warning
from fledge.runs.run_folder import CONFIG, RunFolder
from fledge.runs.status import logged_metrics
from fledge.tracking.sinks.csv import STEP, MetricsTable
from fledge.tracking.sinks.jsonl import read_events

MOST = 3  # pieces of advice
OVERFITTED = 0.01  # relative rise of the validation loss after its best, which comes long before the end
FALLING = 0.03  # relative fall of the validation loss in the last quarter of a run
REPETITIVE = 0.3  # compressed size of a sample relative to its length: 0.5 to 0.6 for usual text
SAMPLE_BYTES = 250  # a shorter sample says nothing

Curve = Sequence[tuple[int, float]]  # (step, validation loss)


@dataclass(frozen=True)
class Advice:
    text: str
    command: str


def advise(run: RunFolder) -> list[Advice]:
    """At most three pieces of advice, the most important first."""
    config, metrics = run.config(), logged_metrics(run)
    if "align" in config:  # what follows is about the loss of texts
        return []
    pairs = zip(metrics[STEP], metrics["val/loss"], strict=True)
    curve = [(int(step), loss) for step, loss in pairs if step > 0 and math.isfinite(loss)]
    last_sample = max(
        (event for event in read_events(run.folder) if event["event"] == "Sample"),
        key=lambda event: int(event["step"]),
        default={"text": ""},
    )
    found = (
        overfitting(curve, run),
        small_split(metrics, config["data"], run),
        still_falling(curve, run.last_step(config), run),
        repetition(str(last_sample["text"]), config["track"]["temperature"], run),
    )
    return [each for each in found if each][:MOST]


def overfitting(curve: Curve, run: RunFolder) -> Advice | None:
    """The best step came in the first three quarters of the run, and the loss has risen since."""
    if not curve:
        return None
    best_step, best = min(curve, key=lambda point: point[1])
    last_step, last = curve[-1]
    if best_step > 0.75 * last_step or last < best * (1 + OVERFITTED):
        return None
    return Advice(
        f"the model overfits: validation loss {best:.3f} at step {best_step:,}, {last:.3f} at the end;"
        " train for fewer steps with dropout, or on more text",
        f"fledge train {run.path_word}/{CONFIG} --train.steps {best_step} --model.dropout 0.2",
    )


def small_split(metrics: MetricsTable, data: dict[str, Any], run: RunFolder) -> Advice | None:
    """The text of the run is known, and more of it can be held out."""
    sizes = zip(metrics.measured("val/tokens"), metrics.measured("val/fraction"), strict=True)
    warning = small_validation_warning(max((round(tokens / fraction) for tokens, fraction in sizes), default=0))
    corpus, val = data.get("corpus"), min(0.5, 2 * data.get("val", 0))
    if warning is None or corpus is None or val <= data.get("val", 0):
        return None
    text = shlex.join([corpus] if isinstance(corpus, str) else corpus)
    return Advice(
        warning,
        f"fledge train {run.path_word}/{CONFIG} {text} --data.val {val:g} --train.eval_tokens null",
    )


def still_falling(curve: Curve, steps: int, run: RunFolder) -> Advice | None:
    """The last evaluation is the best, and well below that of three quarters of the run."""
    if len(curve) < 4 or curve[-1][1] > min(loss for _, loss in curve):
        return None
    before = [loss for step, loss in curve if step <= 0.75 * curve[-1][0]][-1:]
    fall = 1 - curve[-1][1] / before[0] if before else 0.0
    if fall < FALLING:
        return None
    return Advice(
        f"the validation loss still fell by {fall:.0%} in the last quarter; longer training helps",
        f"fledge resume {run.reference} --train.steps {2 * steps} --allow-changes",
    )


def repetition(text: str, temperature: float, run: RunFolder) -> Advice | None:
    """The last sample says the same again and again."""
    content = text.encode()
    if len(content) < SAMPLE_BYTES or len(zlib.compress(content, 9)) > REPETITIVE * len(content):
        return None
    higher = 0.8 if temperature < 0.6 else 1.0
    return Advice(
        "the last sample repeats itself: a higher temperature helps, or longer training",
        f"fledge generate {run.reference} --temperature {higher}",
    )
