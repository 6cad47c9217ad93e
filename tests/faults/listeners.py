"""Guests of a run that behave badly, each in its own way."""

import functools
import time
from collections.abc import Callable

from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.events import Event, Stepped
from fledge.tracking.sinks import Sink
from fledge.training import trainer
from nursery import Marks, command


class Raises:
    def record(self, event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            raise ConnectionError("no more network")

    def close(self) -> None: ...


class Hangs:
    def record(self, _: Event) -> None:
        time.sleep(3600)

    def close(self) -> None: ...


class IsSlow:
    """Its queue fills up."""

    def record(self, _: Event) -> None:
        time.sleep(0.05)

    def close(self) -> None: ...


class HangsFromTheStart(Raises):
    def __init__(self) -> None:
        time.sleep(3600)


KINDS: dict[str, Callable[[], Sink]] = {
    "raises": Raises,
    "hangs": Hangs,
    "fills its queue": IsSlow,
    "hangs from the start": HangsFromTheStart,
}


def train_with(marks: Marks, kind: str, words: list[str], environment: dict[str, str]) -> int:
    """`fledge WORDS` with such a guest."""
    usual = trainer.build_sinks
    guest = functools.partial(AsyncSink, "Guest", KINDS[kind], room=4, welcome=0.2, farewell=0.2)
    trainer.build_sinks = lambda *about: [*usual(*about), guest()]
    return command(marks, words, environment)
