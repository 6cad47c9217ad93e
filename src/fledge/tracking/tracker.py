"""The tracker hands every event to every sink, and keeps a failing sink from stopping the others."""

from collections.abc import Callable, Sequence

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.tracking.events import Event, Notice
from fledge.tracking.sinks.base import Sink


class Tracker:
    """A sink that fails is removed, and the others get a warning as a `Notice`.

    A `UserError` of a sink is raised, once all sinks have the event: a file of the run could not be written.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def record(self, event: Event) -> None:
        for warning in self._call(lambda sink: sink.record(event)):
            self.record(Notice(event.step, warning))

    def close(self) -> None:
        for warning in self._call(lambda sink: sink.close()):
            notice(warning)

    def _call(self, act: Callable[[Sink], None]) -> list[str]:
        """`act` on all sinks. Returns the warnings about those that failed."""
        warnings: list[str] = []
        user_error: UserError | None = None
        for sink in list(self._sinks):
            try:
                act(sink)
            except UserError as error:
                user_error = error
            except (Exception, SystemExit) as error:  # rich raises SystemExit on a broken pipe
                self._sinks.remove(sink)
                name = getattr(sink, "name", type(sink).__name__)
                warnings.append(f"warning: {name} failed and is switched off: {error}")
        if user_error:
            raise user_error
        return warnings
