"""Loggers that fail, each in its own way."""

import functools
import time
from collections.abc import Callable

from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.events import Event
from fledge.tracking.sinks.base import Sink
from fledge.training import recorder
from fork_server import Marks, command


class Raises:
    def record(self, event: Event) -> None:
        if event.step == 3:
            raise ConnectionError("no more network")

    def close(self) -> None: ...


class Hangs:
    def record(self, _: Event) -> None:
        time.sleep(3600)

    def close(self) -> None: ...


class Slow:
    """Its queue fills up."""

    def record(self, _: Event) -> None:
        time.sleep(0.05)

    def close(self) -> None: ...


class HangsAtStart(Raises):
    def __init__(self) -> None:
        time.sleep(3600)


KINDS: dict[str, Callable[[], Sink]] = {
    "raises": Raises,
    "hangs": Hangs,
    "fills its queue": Slow,
    "hangs at start": HangsAtStart,
}


def train_with(marks: Marks, kind: str, words: list[str], environment: dict[str, str]) -> int:
    """`fledge WORDS` with such a logger."""
    build_sinks = recorder.build_sinks
    logger = functools.partial(AsyncSink, "Bad", KINDS[kind], queue_size=4, start_timeout=0.2, close_timeout=0.2)
    recorder.build_sinks = lambda *args: [*build_sinks(*args), logger()]
    return command(marks, words, environment)
