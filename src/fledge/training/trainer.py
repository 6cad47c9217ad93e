"""Trains a run from a state to its last step.

    fit        train_loop until the last step or a stop signal; after a divergence, roll back and continue
    hooks      evaluate · log · sample · evaluate the whole split · save, in this order, where they are due

Used by train, resume and demo. A checkpoint holds all state that later steps depend on (see checkpointer.py), so a
Trainer can be rebuilt from the run folder at any time.
"""

import contextlib
import math
import time
from dataclasses import asdict

from fledge.checkpoint import store
from fledge.checkpoint.state import State, seed_rng
from fledge.core.device import Machine, peak_memory, reset_peak_memory
from fledge.core.errors import Interrupted, UserError
from fledge.core.formatting import short_path
from fledge.core.signals import StopRequested, StopSignals
from fledge.optim.schedule import lr_multiplier
from fledge.runs.run_folder import RunFolder
from fledge.tracking import events
from fledge.tracking.rewind import rewind
from fledge.tracking.sinks.jsonl import read_events
from fledge.training.anomaly import checksum, find_anomaly, is_finite
from fledge.training.checkpointer import Checkpointer
from fledge.training.config import Settings
from fledge.training.divergence import Diverged, DivergenceMonitor, NotLearning
from fledge.training.early_stopping import EarlyStopping, nothing_to_wait_for
from fledge.training.loop import Hook, RunEnd, call_hooks, every, train_loop
from fledge.training.method import Method
from fledge.training.profiler import STEPS as PROFILED_STEPS
from fledge.training.profiler import StepProfiler
from fledge.training.recorder import Recorder
from fledge.training.result import TrainResult, train_result
from fledge.training.setup import build_training, can_compile
from fledge.training.statistics import LayerStatistics
from fledge.training.step import StepResult
from fledge.training.time_limit import EndCosts, TimeLimit
from fledge.training.whole_split import WholeSplit

PROFILE = "profile"  # folder of a run
MAX_ROLLBACKS = 3  # to one checkpoint: after that the data is not the cause


class Trainer:
    def __init__(
        self,
        run: RunFolder,
        settings: Settings,
        machine: Machine,
        method: Method,
        *,
        profile: bool = False,
        begun: float | None = None,
    ) -> None:
        """begun: when the command began, on the clock time.perf_counter; None: now."""
        self.run, self.settings, self.machine, self.method = run, settings, machine, method
        self.world = machine.world
        reset_peak_memory(machine.device)
        self.train_step = build_training(
            settings,
            machine,
            method,
            lambda check: self.recorder.compile_check(self.train_step.current_step, check),
        )
        self.model, self.measure = self.train_step.model, self.train_step.step_time.measure
        self.time_limit = TimeLimit(run, settings.train, self.world, self.train_step.step_time, begun)
        self.pace = self.time_limit.pace
        self.train_step.multiplier = self._lr_multiplier
        self.statistics = LayerStatistics(self.train_step, machine, settings.track.statistics)
        self.train_step.around_update = self.statistics.around_update
        self.monitor = DivergenceMonitor(settings.train.loss_spike, self._record_anomaly, settings.optim.lr)
        self.early_stopping = EarlyStopping(settings.train.patience)
        self.checkpointer = Checkpointer(run, settings, method, self.train_step, self.monitor)
        if settings.train.patience is not None:
            self.checkpointer.components["early_stopping"] = self.early_stopping
        if self.time_limit.active:
            self.checkpointer.components["time_limit"] = self.time_limit
        self.evaluated: tuple[int, float] | None = None  # step and validation loss of the last evaluation
        self.step_seconds = 0.0  # of the last step
        self.recorder = Recorder(run, settings, machine)
        self.signals = StopSignals(self.world, lambda: self.checkpointer.is_due(self.step_seconds))
        self.evaluations = method.evaluations(self.model, self.signals.interruptible)
        if settings.train.patience is not None and not self._evaluates_at(self.pace.last_step):
            raise nothing_to_wait_for()
        parts = (self.evaluations, self.checkpointer, self.recorder, self.measure)
        self.whole_split = WholeSplit(*parts, in_haste=self.time_limit.active)
        self.profile = profile and self.world.is_main
        self.profiler: StepProfiler | None = None

    def fit(self, state: State | None = None) -> TrainResult:
        """Train from `state`, or the beginning, to the last step. A stop signal saves, then raises `Interrupted`."""
        first = state.step if state else 0
        seed_rng(self.settings.train.seed, first, self.world)  # dropout uses torch's global generator
        if state is not None:
            self.restore(state)
        self.time_limit.replay(first)
        begun = time.perf_counter()
        self.recorder.open(first)
        with self.signals as signals:
            try:
                self._record_start(first)
                if self.profile:
                    self.profiler = StepProfiler(self.run.folder / PROFILE, self.pace.last_step - first)
                end = self._run_with_rollbacks(state)
                last = end.last.step if end.last else first
                stopped = signals.received if not self._is_last(last) or end.pending_hooks else None
                with signals.deadline.suspended():
                    if stopped:
                        with contextlib.suppress(Diverged):  # broken weights: the checkpoint before stays the latest
                            self._save(last, end, scheduled=False)
                    with self.measure("saving"):
                        self.recorder.saved(self.checkpointer.saved(wait=True))
                if not stopped:
                    self._log_time(last)
                reason, memory = "interrupted" if stopped else "finished", peak_memory(self.machine.device)
                self.recorder.record(events.Ended(last, reason, time.perf_counter() - begun, memory))
            except Exception:
                with contextlib.suppress(Exception):  # on a full disk: the first error says more
                    step = max(first, self.train_step.current_step)
                    self.recorder.record(events.Ended(step, "failed", time.perf_counter() - begun))
                raise
            finally:
                if self.profiler:
                    self.profiler.close()
                self.checkpointer.close()
                self.recorder.close()
        if stopped:
            raise Interrupted(stopped, f"fledge resume {self.run.reference}")
        return train_result(self.run, last)

    def restore(self, state: State) -> None:
        self.checkpointer.restore(state)
        self.time_limit.restart(state.step)
        self.evaluated = None

    def _lr_multiplier(self, step: int) -> float:
        return lr_multiplier(self.settings.optim, self.pace.position(step), self.settings.train.steps)

    def _record_start(self, step: int) -> None:
        self.recorder.started(step, self.pace.last_step, self.evaluations, self.whole_split.passes)

    def _run_with_rollbacks(self, state: State | None) -> RunEnd:
        while True:
            try:
                return self._run(state, state.step if state else 0)
            except Diverged as divergence:
                state = self._roll_back(divergence)
            except NotLearning as problem:
                raise UserError(problem.reason, problem.hint) from None

    def _run(self, state: State | None, first: int) -> RunEnd:
        """Run the hooks that the state has pending, then the loop."""
        hooks = self._hooks()
        pending = StepResult(**state.pending_hooks) if state and state.pending_hooks else None
        try:
            if state is None or (state.pending_hooks is not None and not first):
                self._evaluate_and_sample_before_training()
            elif pending:
                call_hooks(hooks, pending)
        except StopRequested:
            return RunEnd(pending, pending_hooks=True)
        if self._is_last(first):  # its hooks were pending
            return RunEnd(pending)
        self.recorder.activity(first, "compiling" if can_compile(self.settings, self.machine) else "first step")
        return train_loop(self.train_step, first, hooks, self.signals, self.monitor, self._is_last)

    def _is_last(self, step: int) -> bool:
        """Whether the run ends with this step: as planned, or early."""
        return step >= self.pace.last_step or step == self.early_stopping.stopped_at

    def _roll_back(self, divergence: Diverged) -> State:
        """Restore the last healthy checkpoint and skip the batches that led to the divergence."""
        self.recorder.saved(self.checkpointer.saved(wait=True))
        lower = f"--optim.lr {self.settings.optim.lr / 3:.2g}, and with Muon a smaller --optim.muon_lr"
        hint = f"the learning rate is probably too high: train again with {lower}, or more --optim.warmup_steps"
        error = UserError(divergence.reason, hint)
        name = self.checkpointer.rollback_target() if self.settings.train.rollback else ""
        if not name:
            raise error
        state = self.checkpointer.load(name)
        if self._rollbacks_to(state.step) >= MAX_ROLLBACKS:
            raise error
        before = self.train_step.skipped
        after = before.skip(state.step, divergence.step - 1)
        self.restore(state)
        self.train_step.skipped = after
        self.recorder.close()
        if self.world.is_main:
            store.remove_after(self.run.checkpoints, state.step)
            last_recorded = state.step - (state.pending_hooks is not None)
            rewind(self.run.folder, last_recorded, keep=(events.Anomaly, events.RolledBack, events.StepsPlanned))
        self.recorder.open(state.step)
        self._record_start(state.step)
        skipped = (before.batch(state.step), after.batch(state.step) - 1)
        self.recorder.record(events.RolledBack(state.step, divergence.step, divergence.reason, skipped))
        return state

    def _rollbacks_to(self, step: int) -> int:
        """How many there were, in earlier processes too."""

        def count() -> str:
            rollbacks = [
                event for event in read_events(self.run.folder) if event["event"] == events.RolledBack.__name__
            ]
            return str(sum(event["step"] == step for event in rollbacks))

        return int(self.world.broadcast_from_main(count))

    def _hooks(self) -> list[Hook]:
        """In this order, so that a row of metrics has its evaluation, and a checkpoint its validation loss."""
        train = self.settings.train
        return [
            every(1, self._check_method),
            Hook(lambda result: self._evaluate(result.step), self._evaluates_at),
            Hook(self._log, self._logs_at),
            every(train.sample_every, lambda result: self._sample(result.step), is_last=self._is_last),
            Hook(self._evaluate_whole_split, lambda step: self._is_last(step) and bool(self.whole_split.passes)),
            every(1, lambda _: self.recorder.saved(self.checkpointer.saved())),
            every(1, self.recorder.watch_speed),
            every(int(self.profile), self._profile_step),
            Hook(self._keep_to_time, lambda step: self.time_limit.active and not self._is_last(step)),
            every(1, self._save_if_due),
        ]

    def _check_method(self, result: StepResult) -> None:
        for text in self.method.check(result):
            self.recorder.warning(result.step, text)

    def _evaluate_and_sample_before_training(self) -> None:
        if self._evaluates_at(0):
            self._evaluate(0)
        if self.settings.train.sample_every:
            self._sample(0)

    def _logs_at(self, step: int) -> bool:
        every = self.settings.train.log_every
        due = step % every == 0 or step == self.pace.last_step
        return due or self._evaluates_at(step) or self.statistics.is_due(step)

    def _saves_at(self, step: int) -> bool:
        """On schedule, after every evaluation, and at the last step: the fixed steps that a rollback may go to."""
        every = self.settings.train.save_every
        regular = every is not None and step % every == 0
        return regular or step == self.pace.last_step or self._evaluates_at(step)

    def _evaluates_at(self, step: int) -> bool:
        every = self.evaluations.every
        return bool(every) and (step % every == 0 or step == self.pace.last_step)

    def _evaluate(self, step: int) -> None:
        self.recorder.activity(step, "evaluating" if step else "evaluating before the first step")
        with self.measure("evaluation"):
            found = self.evaluations.evaluate()
        self.recorder.record(events.Metrics(step, dict(found.metrics)))
        if not math.isfinite(found.loss):
            raise Diverged(step, f"the validation loss became {found.loss} at step {step}")
        self.evaluated = (step, found.loss)
        self.early_stopping.update(step, found.loss)
        if step == self.early_stopping.stopped_at and step < self.pace.last_step:
            self.recorder.record(self.early_stopping.event(found))

    def _evaluate_whole_split(self, result: StepResult) -> None:
        assert self.evaluated is not None
        self.evaluated = (result.step, self.whole_split.evaluate(*self.evaluated))

    def _log(self, result: StepResult) -> None:
        own, statistics = self.method.metrics(result.step), self.statistics.metrics()
        values = {**result.metrics(), **own, **self.train_step.step_time.metrics(), **statistics}
        self.recorder.record(events.Metrics(result.step, values))
        self.monitor.check_weights(result, checksum(self.model, self.world))

    def _log_time(self, step: int) -> None:
        """Of what came after the last row: samples, the evaluation of the whole split, the last checkpoint."""
        if values := self.train_step.step_time.metrics():
            self.recorder.record(events.Metrics(step, values))

    def _sample(self, step: int) -> None:
        self._check_weights_finite(step)
        self.recorder.activity(step, "generating a sample")
        with self.measure("sampling"):
            sample = self.method.sample(self.model, step, self.signals.interruptible)
        self.recorder.record(sample)

    def _save_if_due(self, result: StepResult) -> None:
        """At a fixed step; else when it is time, or for looking back."""
        step, timed, self.step_seconds = result.step, self.signals.flag, result.seconds
        if self._saves_at(step):
            self._save(step)
        elif timed or step in self.checkpointer.history:
            with contextlib.suppress(Diverged):  # raised at a fixed step only, or a clock would decide
                self._save(step, scheduled=False, weights_only=not timed)

    def _save(
        self, step: int, end: RunEnd | None = None, *, scheduled: bool = True, weights_only: bool = False
    ) -> None:
        """`end`: the run stops here, perhaps with pending hooks."""
        self._check_weights_finite(step)
        fields = {
            "val_loss": self.evaluated[1] if self.evaluated and self.evaluated[0] == step else None,
            "pending_hooks": (asdict(end.last) if end.last else {}) if end and end.pending_hooks else None,
            "scheduled": scheduled,
            "weights_only": weights_only,
        }
        with self.signals.deadline.suspended():
            with self.measure("saving"):
                saved = self.checkpointer.save(step, **fields)
            self.recorder.saved(saved)

    def _check_weights_finite(self, step: int) -> None:
        """Loss and gradient norm are from before the update: only the weights show whether it broke them."""
        if not self.world.all_reduce_min(all(is_finite(weight) for weight in self.model.parameters())):
            raise Diverged(step, f"the weights are no longer finite at step {step}")

    def _record_anomaly(self, result: StepResult, reason: str) -> None:
        """With its origin and its samples, before the batch is skipped."""
        step, batch = result.step - 1, self.settings.train.batch
        origin = ""
        if not result.is_finite:
            micro_batches = self.train_step.micro_batches(step)
            origin = find_anomaly(self.model, self.train_step.objective, micro_batches, self.machine)
        first = self.train_step.skipped.batch(step) * batch
        samples = (first, first + batch - 1)
        self.recorder.record(events.Anomaly(result.step, reason, origin, result.loss, result.grad_norm, samples))

    def _keep_to_time(self, result: StepResult) -> None:
        def ends() -> EndCosts:
            passes = self.whole_split.expected_passes(self.evaluated and self.evaluated[1], self.early_stopping.best)
            return EndCosts(self.checkpointer.timer.last_seconds, passes)

        self.time_limit.update(result.step, ends, self.recorder.record)

    def _profile_step(self, result: StepResult) -> None:
        if self.profiler and self.profiler():
            folder = short_path(self.profiler.folder)
            text = f"profile of {PROFILED_STEPS} steps: {folder}/trace.json, operators.txt"
            self.recorder.record(events.Notice(result.step, text))
