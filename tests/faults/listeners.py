"""Guests of a run that behave badly, each in its own way."""

import functools
import time
from collections.abc import Callable

from fledge.recipes import training
from fledge.track.events import Event, Stepped
from fledge.track.guests import Guest
from fledge.track.sinks import Sink
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
    usual = training.listeners
    guest = functools.partial(Guest, "Guest", KINDS[kind], room=4, welcome=0.2, farewell=0.2)
    training.listeners = lambda *about: [*usual(*about), guest()]
    return command(marks, words, environment)
