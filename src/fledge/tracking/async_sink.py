"""A sink in a thread of its own with a bounded queue, so that a slow or hanging logger never delays training.

An exception of the wrapped sink is raised at the next `record` or `close`; the tracker then switches it off.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from queue import Full, Queue

from fledge.core.progress import notice
from fledge.tracking.events import Event
from fledge.tracking.sinks.base import Sink

QUEUE_SIZE = 1000  # events; while the queue is full, new events are dropped
START_TIMEOUT = 20.0  # seconds to wait for the sink to start, so that an early error is raised at once
CLOSE_TIMEOUT = 3.0  # seconds in which it may finish its queue


class AsyncSink:
    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        queue_size: int = QUEUE_SIZE,
        start_timeout: float = START_TIMEOUT,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        self.name, self._close_timeout = name, close_timeout
        self._queue: Queue[Event | None] = Queue(queue_size)  # None: the end
        self._dropped = 0
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make,), name=name, daemon=True)
        self._thread.start()
        self._started.wait(start_timeout)
        self._raise_failure()

    def record(self, event: Event) -> None:
        self._raise_failure()
        try:
            self._queue.put_nowait(event)
        except Full:
            self._dropped += 1
            if self._dropped == 1:
                notice(f"warning: {self.name} is too slow: events that do not fit into its queue are dropped")

    def close(self) -> None:
        """Wait for the queued events, at most `close_timeout` seconds."""
        deadline = time.monotonic() + self._close_timeout
        with contextlib.suppress(Full):
            self._queue.put(None, timeout=self._close_timeout)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._raise_failure()
        if self._thread.is_alive():
            notice(f"warning: {self.name} does not respond and was not closed")
        elif self._dropped:
            notice(f"warning: {self.name} missed {self._dropped} events")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self, make: Callable[[], Sink]) -> None:
        try:
            sink = make()
            self._started.set()
            while (event := self._queue.get()) is not None:
                sink.record(event)
            sink.close()
        except BaseException as error:
            self._failure = error
        finally:
            self._started.set()
