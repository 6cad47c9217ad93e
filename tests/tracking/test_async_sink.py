"""AsyncSink: the wrapped sink gets all events in order, and training never waits for it."""

import sys
import threading
from collections.abc import Iterator

import pytest

from fledge.core.errors import UserError
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.events import Event, Notice
from fledge.tracking.terminal import LineView
from fledge.tracking.tracker import Tracker

WAIT = 20  # seconds


def notice(step: int) -> Event:
    return Notice(step, "something")


class Listener:
    """Keeps the events and the threads that delivered them; waits at each event for `go_on`."""

    def __init__(self, go_on: threading.Event | None = None, fails_at: int | None = None) -> None:
        self.events: list[Event] = []
        self.threads: set[int] = set()
        self.closed = threading.Event()
        self._go_on, self._fails_at = go_on, fails_at

    def record(self, event: Event) -> None:
        if self._go_on:
            self._go_on.wait(WAIT)
        self.threads.add(threading.get_ident())
        if event.step == self._fails_at:
            raise RuntimeError("no more network")
        self.events.append(event)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_events_arrive_in_order_in_another_thread(events: list[Event]) -> None:
    listener = Listener()
    sink = AsyncSink("Slow", lambda: listener, close_timeout=WAIT)
    for event in events:
        sink.record(event)
    sink.close()
    assert listener.events == events
    assert listener.closed.is_set()
    assert threading.get_ident() not in listener.threads


def test_hanging_sink_drops_events_with_one_warning(go_on: threading.Event, capsys: pytest.CaptureFixture[str]) -> None:
    listener = Listener(go_on)
    sink = AsyncSink("Slow", lambda: listener, queue_size=3, close_timeout=0.05)
    for step in range(20):
        sink.record(notice(step))
    sink.close()
    assert listener.events == []
    assert capsys.readouterr().err.splitlines() == [
        "warning: Slow is too slow: events that do not fit into its queue are dropped",
        "warning: Slow does not respond and was not closed",
    ]


def test_slow_sink_gets_queued_events_and_counts_the_rest(
    go_on: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener(go_on)
    sink = AsyncSink("Slow", lambda: listener, queue_size=3, close_timeout=WAIT)
    for step in range(20):
        sink.record(notice(step))
    go_on.set()
    sink.close()
    steps = [event.step for event in listener.events]
    assert 3 <= len(steps) <= 4
    assert steps == list(range(len(steps)))
    assert f"Slow missed {20 - len(steps)} events" in capsys.readouterr().err


def test_failing_sink_is_switched_off_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    sink = AsyncSink("Slow", lambda: Listener(fails_at=2))
    tracker = Tracker([sink, LineView(sys.stderr)])
    for step in range(3):
        tracker.record(notice(step))
    sink._thread.join(WAIT)
    tracker.record(notice(3))
    tracker.close()
    assert capsys.readouterr().err.count("warning: Slow failed and is switched off: no more network") == 1


def test_failure_of_the_last_event_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = Tracker([AsyncSink("Slow", lambda: Listener(fails_at=0), close_timeout=WAIT)])
    tracker.record(notice(0))
    tracker.close()
    assert "Slow failed and is switched off: no more network" in capsys.readouterr().err


def test_error_at_start_is_raised_at_once() -> None:
    def make() -> Listener:
        raise UserError("it is not installed", "install it")

    with pytest.raises(UserError, match="not installed"):
        AsyncSink("Slow", make)


def test_training_does_not_wait_for_a_slow_start(events: list[Event], go_on: threading.Event) -> None:
    listener = Listener()

    def make() -> Listener:
        go_on.wait(WAIT)
        return listener

    sink = AsyncSink("Slow", make, start_timeout=0.01, close_timeout=WAIT)
    for event in events:
        sink.record(event)
    go_on.set()
    sink.close()
    assert listener.events == events
