"""What happens in a training run, as events for the tracker. Only the main process has sinks."""

from collections.abc import Sequence

from fledge.checkpoint.async_saver import SavedCheckpoint
from fledge.core.device import Machine
from fledge.core.threads import LoadMeter, SlowdownWatch
from fledge.model.flops import parameter_count
from fledge.runs.run_folder import RunFolder
from fledge.tracking import events
from fledge.tracking.events import Event
from fledge.tracking.loggers import build_sinks
from fledge.tracking.tracker import Tracker
from fledge.training.compiled import EAGER_NOTICE, CompileCheck
from fledge.training.config import Settings
from fledge.training.method import Evaluations
from fledge.training.setup import can_compile, settings_warnings
from fledge.training.step import StepResult


class Recorder:
    def __init__(self, run: RunFolder, settings: Settings, machine: Machine) -> None:
        self.run, self.settings, self.machine = run, settings, machine
        self._tracker = Tracker([])
        self._slowdown = SlowdownWatch(LoadMeter())

    def open(self, step: int) -> None:
        """Open the sinks of a run that has made `step` steps."""
        sinks = build_sinks(self.run.folder, self.settings.track, step) if self.machine.world.is_main else []
        self._tracker = Tracker(sinks)

    def close(self) -> None:
        self._tracker.close()

    def record(self, event: Event) -> None:
        self._tracker.record(event)

    def started(self, step: int, last_step: int, evaluations: Evaluations, whole_split_passes: float) -> None:
        train, machine = self.settings.train, self.machine
        compiled, parameters = can_compile(self.settings, machine), parameter_count(self.settings.model)
        intervals = (train.eval_every or 0, train.sample_every, whole_split_passes)
        about = (self.run.name, step, last_step, parameters, machine.device, machine.dtype, compiled)
        self.record(events.Started(*about, *intervals))
        for text in settings_warnings(self.settings, machine):
            self.warning(step, text)
        for text in evaluations.notices():
            self.record(events.Notice(step, text))

    def warning(self, step: int, text: str) -> None:
        self.record(events.Notice(step, f"warning: {text}"))

    def activity(self, step: int, text: str) -> None:
        self.record(events.Activity(step, text))

    def watch_speed(self, result: StepResult) -> None:
        if text := self._slowdown.add(result.seconds):
            self.warning(result.step, text)

    def compile_check(self, step: int, check: CompileCheck) -> None:
        self.record(events.CompileChecked(step, check.ok, check.reason))
        if not check.ok:
            self.warning(step, f"{check.reason}: {EAGER_NOTICE}")

    def saved(self, saved: Sequence[SavedCheckpoint]) -> None:
        for each in saved:
            self.record(events.Saved(**vars(each)))
