"""Listeners that may be slow, hang or fail: each has a thread and a queue of its own, so that training waits for none.

What a guest raises comes up where the next event is handed over; there the tracker switches it off.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from queue import Full, Queue

from fledge.tracking.events import Event
from fledge.tracking.sinks import Sink, warn

QUEUE_SIZE = 1000  # events; while so many wait to be told, further ones are dropped
START_TIMEOUT = 20.0  # seconds in which a guest should have begun: its refusals are then told at once
CLOSE_TIMEOUT = 3.0  # seconds in which it should have told what is left


class AsyncSink:
    """A sink that is made and called in a thread of its own."""

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        room: int = QUEUE_SIZE,
        welcome: float = START_TIMEOUT,
        farewell: float = CLOSE_TIMEOUT,
    ) -> None:
        self.name, self._farewell = name, farewell
        self._waiting: Queue[Event | None] = Queue(room)  # None: there will be no more
        self._dropped = 0
        self._failure: BaseException | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(make,), name=name, daemon=True)
        self._thread.start()
        self._begun.wait(welcome)
        self._raise_failure()

    def record(self, event: Event) -> None:
        self._raise_failure()
        try:
            self._waiting.put_nowait(event)
        except Full:
            self._dropped += 1
            if self._dropped == 1:
                warn(f"{self.name} is too slow: what it cannot take is not told to it")

    def close(self) -> None:
        """What waits is still told, if that takes no more than a few seconds."""
        until = time.monotonic() + self._farewell
        with contextlib.suppress(Full):
            self._waiting.put(None, timeout=self._farewell)
        self._thread.join(max(0.0, until - time.monotonic()))
        self._raise_failure()
        if self._thread.is_alive():
            warn(f"{self.name} does not answer, and is left behind")
        elif self._dropped:
            warn(f"{self.name} was not told of {self._dropped} events")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _serve(self, make: Callable[[], Sink]) -> None:
        try:
            sink = make()
            self._begun.set()
            while (event := self._waiting.get()) is not None:
                sink.record(event)
            sink.close()
        except BaseException as error:
            self._failure = error
        finally:
            self._begun.set()
