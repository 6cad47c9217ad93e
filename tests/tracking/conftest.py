import pytest

from fledge.tracking.events import Ended, Event, Metrics, Notice, Sample, Saved, Started


def train_metrics(step: int) -> Metrics:
    values = {
        "train/loss": 3.0 - step / 10,
        "train/lr": 1e-3 / step,
        "train/grad_norm": 0.5,
        "train/step_seconds": 0.25,
        "train/tokens_per_second": 256.0,
        "train/tokens": step * 64,
    }
    return Metrics(step, values)


def val_metrics(step: int) -> Metrics:
    values = {
        "val/loss": 3.1 - step / 10,
        "val/perplexity": 20.0,
        "val/bits_per_byte": 4.4 - step / 10,
        "val/accuracy": 0.1 + step / 100,
        "val/seconds": 0.5,
    }
    return Metrics(step, values)


def run_events(steps: int = 6, every: int = 3) -> list[Event]:
    """The events of a short run, as training records them."""
    events: list[Event] = [
        Started("tiny", 0, steps, 1234, "cpu", "float32", False),
        val_metrics(0),
        Sample(0, "a", "x?"),
    ]
    for step in range(1, steps + 1):
        evaluated = step % every == 0
        events += [val_metrics(step)] * evaluated + [train_metrics(step)]
        events += [Sample(step, "ab", f"c{step}\n"), Saved(step, 3.1, 0.1)] * evaluated
    return [*events, Notice(steps, "something to know"), Ended(steps, "finished", 12.0)]


@pytest.fixture
def events() -> list[Event]:
    return run_events()


@pytest.fixture
def many_events() -> list[Event]:
    return run_events(60, 20)
