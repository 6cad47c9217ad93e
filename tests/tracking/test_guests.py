"""A guest hears everything, in order, and whatever it does, nobody waits for it."""

import threading
from collections.abc import Iterator

import pytest

from fledge.core.errors import UserError
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.events import Event, Notice
from fledge.tracking.sinks import TrackerSink

WAIT = 20  # seconds, where nothing is measured


def said(step: int) -> Event:
    return Notice(step, "something")


class Listener:
    """Tells what it heard and where; waits at each event until it may go on."""

    def __init__(self, go_on: threading.Event | None = None, breaks_at: int | None = None) -> None:
        self.heard: list[Event] = []
        self.threads: set[int] = set()
        self.closed = threading.Event()
        self._go_on, self._breaks_at = go_on, breaks_at

    def record(self, event: Event) -> None:
        if self._go_on:
            self._go_on.wait(WAIT)
        self.threads.add(threading.get_ident())
        if event.step == self._breaks_at:
            raise RuntimeError("no more network")
        self.heard.append(event)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_guest_hears_everything_in_order_in_a_thread_of_its_own(events: list[Event]) -> None:
    listener = Listener()
    guest = AsyncSink("Ear", lambda: listener, farewell=WAIT)
    for event in events:
        guest.record(event)
    guest.close()
    assert listener.heard == events
    assert listener.closed.is_set()
    assert threading.get_ident() not in listener.threads


def test_nobody_waits_for_a_guest_that_hangs_and_what_it_cannot_take_is_dropped_with_one_warning(
    go_on: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener(go_on)
    guest = AsyncSink("Ear", lambda: listener, room=3, farewell=0.05)
    for step in range(20):
        guest.record(said(step))
    guest.close()
    assert listener.heard == []
    assert capsys.readouterr().err.splitlines() == [
        "warning: Ear is too slow: what it cannot take is not told to it",
        "warning: Ear does not answer, and is left behind",
    ]


def test_a_guest_that_catches_up_is_told_the_rest_and_how_much_it_missed(
    go_on: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener(go_on)
    guest = AsyncSink("Ear", lambda: listener, room=3, farewell=WAIT)
    for step in range(20):
        guest.record(said(step))
    go_on.set()
    guest.close()
    steps = [event.step for event in listener.heard]
    assert 3 <= len(steps) <= 4
    assert steps == list(range(len(steps)))
    assert f"Ear was not told of {20 - len(steps)} events" in capsys.readouterr().err


def test_a_guest_that_fails_is_switched_off_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    guest = AsyncSink("Ear", lambda: Listener(breaks_at=2))
    tracker = TrackerSink([guest])
    for step in range(3):
        tracker.record(said(step))
    guest._thread.join(WAIT)
    tracker.record(said(3))
    tracker.close()
    assert capsys.readouterr().err.splitlines() == ["warning: Ear failed and is switched off: no more network"]


def test_a_failure_that_comes_last_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = TrackerSink([AsyncSink("Ear", lambda: Listener(breaks_at=0), farewell=WAIT)])
    tracker.record(said(0))
    tracker.close()
    assert "Ear failed and is switched off: no more network" in capsys.readouterr().err


def test_what_is_wrong_with_a_guest_from_the_beginning_is_told_at_once() -> None:
    def make() -> Listener:
        raise UserError("it is not installed", "install it")

    with pytest.raises(UserError, match="not installed"):
        AsyncSink("Ear", make)


def test_training_begins_without_a_guest_that_takes_its_time(events: list[Event], go_on: threading.Event) -> None:
    listener = Listener()

    def make() -> Listener:
        go_on.wait(WAIT)
        return listener

    guest = AsyncSink("Ear", make, welcome=0.01, farewell=WAIT)
    for event in events:
        guest.record(event)
    go_on.set()
    guest.close()
    assert listener.heard == events
