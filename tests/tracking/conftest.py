import pytest

from fledge.tracking.events import Ended, Evaluated, Event, Notice, Sampled, Saved, Started, Stepped


def stepped(step: int) -> Stepped:
    return Stepped(step, step * 64, 3.0 - step / 10, 1e-3 / step, 0.5, 0.25, 256.0)


def evaluated(step: int) -> Evaluated:
    return Evaluated(step, "val", 3.1 - step / 10, 20.0, 4.4 - step / 10, 0.1 + step / 100, 999, 16, 0.5)


def story(steps: int = 6, every: int = 3) -> list[Event]:
    """A short run, as training tells it."""
    events: list[Event] = [
        Started("tiny", 0, steps, 1234, "cpu", "float32", False),
        evaluated(0),
        Sampled(0, "a", "x?"),
    ]
    for step in range(1, steps + 1):
        looks = step % every == 0
        events += [evaluated(step)] * looks + [stepped(step)]
        events += [Sampled(step, "ab", f"c{step}\n"), Saved(step, 3.1, 0.1)] * looks
    return [*events, Notice(steps, "something to know"), Ended(steps, "finished", 12.0)]


@pytest.fixture
def events() -> list[Event]:
    return story()


@pytest.fixture
def long_story() -> list[Event]:
    return story(60, 20)
