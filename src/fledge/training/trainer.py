"""A run on its way, from a run folder to its last step.

    hooks      evaluate · log · sample · save, in this order after a step
    go         fit, until the last step or a signal; after an accident from a checkpoint again

Used by train, resume and demo. Everything here can be thrown away and built again from the run folder.
"""

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fledge.batches.sampler import SkippedBatches
from fledge.checkpoint import store
from fledge.checkpoint.async_saver import AsyncSaver, SavedCheckpoint
from fledge.checkpoint.state import State, capture, capture_part, restore, seed_rng
from fledge.core import device as machines
from fledge.core.config import to_layer
from fledge.core.device import Machine
from fledge.core.distributed import is_dtensor
from fledge.core.errors import Interrupted, UserError
from fledge.core.formatting import short_path
from fledge.core.signals import StopRequested, StopSignals
from fledge.datasets.shards import Dataset
from fledge.evaluation.loss import evaluate_loss
from fledge.inference.generate import stream_text
from fledge.inference.sampler import sampling_strategies
from fledge.model.flops import parameters
from fledge.runs.metadata import checkpoint_metadata
from fledge.runs.run_folder import RunFolder
from fledge.tokenizers.base import byte_lengths
from fledge.tracking import events
from fledge.tracking.loggers import build_sinks
from fledge.tracking.rewind import RECORDS, rewind
from fledge.tracking.tracker import Tracker
from fledge.training.anomaly import checksum, find_anomaly, is_finite
from fledge.training.compiled import EAGER_NOTICE, CompileCheck, CompiledLoss
from fledge.training.config import Settings
from fledge.training.divergence import Diverged, DivergenceMonitor, NotLearning
from fledge.training.loop import Hook, RunEnd, call_hooks, every, train_loop
from fledge.training.profiler import STEPS as PROFILED
from fledge.training.profiler import StepProfiler
from fledge.training.result import TrainResult, train_result
from fledge.training.setup import build_training, compiles, reservations
from fledge.training.step import StepResult

PROFILE = "profile"  # folder of a run
MAX_ROLLBACKS = 3  # to one checkpoint; what goes wrong once more is not the text's fault


class Trainer:
    def __init__(
        self, run: RunFolder, settings: Settings, machine: Machine, dataset: Dataset, *, profile: bool = False
    ) -> None:
        self.run, self.settings, self.machine, self.dataset = run, settings, machine, dataset
        self.steps, self.world = settings.train.steps, machine.world
        machines.reset_peak_memory(machine.device)
        self.stepper = build_training(settings, machine, dataset.split("train"), self._compile_checked)
        self.model, self.optimizer = self.stepper.model, self.stepper.optimizer
        self.byte_lengths = byte_lengths(dataset.tokenizer)
        self.judged: tuple[int, float] | None = None  # step and validation loss of the last look
        self.best_step, self.best_loss = -1, math.inf
        self.tracker = Tracker([])
        self.signals = StopSignals(self.world)
        self.guard = DivergenceMonitor(settings.train.loss_spike, self._accident, settings.optim.lr)
        records = [run.folder / name for name in RECORDS]
        self.saver = AsyncSaver(run.checkpoints, settings.train.keep_last, records)
        self.profile = profile and self.world.is_main
        self.profiler: StepProfiler | None = None
        self.rescues: Counter[int] = Counter()  # by the step that was gone back to

    def load(self, name: str) -> State:
        """A checkpoint of this run; of a model that is spread over ranks, each takes its part."""
        return store.load(store.describe(self.run.checkpoints / name), dict(self.model.named_parameters()))

    def go(self, state: State | None = None) -> TrainResult:
        """From `state`, or from the beginning, to the last step. A signal saves and raises `Interrupted`."""
        reached = state.step if state else 0
        seed_rng(self.settings.train.seed, reached, self.world)  # dropout draws from torch's own generator
        if state is not None:
            self.restore(state)
        begun = time.perf_counter()
        self.tracker = self._heard(reached)
        with self.signals as signals:
            try:
                self._announce(reached)
                if self.profile:
                    self.profiler = StepProfiler(self.run.folder / PROFILE, self.steps - reached)
                end = self._through(state)
                reached = end.last.step if end.last else reached
                stopped = signals.received if reached < self.steps or end.pending_hooks else None
                with signals.deadline.suspended():
                    if stopped:
                        with contextlib.suppress(Diverged):  # what is not worth keeping: an older checkpoint stands
                            self._save(reached, end)
                    self._tell_saved(self.saver.finished(wait=True))
                reason = "interrupted" if stopped else "finished"
                memory = machines.peak_memory(self.machine.device)
                self.tracker.record(events.Ended(reached, reason, time.perf_counter() - begun, memory))
            finally:
                if self.profiler:
                    self.profiler.close()
                self.saver.close()
                self.tracker.close()
        if stopped:
            raise Interrupted(stopped, f"fledge resume {self.run.name}")
        return train_result(self.run, reached)

    def restore(self, state: State) -> None:
        restore(state, self.model, self.optimizer, self.world)
        self.stepper.scaling.load_state_dict(state.scaling)
        if self.settings.train.micro_batch == "auto":
            self.stepper.batches.load_state_dict(state.micro_batch)
        self.stepper.skipped = SkippedBatches(state.skipped)
        if state.compiled is False and isinstance(self.stepper.loss, CompiledLoss):
            self.stepper.loss.use_eager()  # as before the run was interrupted
        self.guard.load_state_dict(state.guard)
        self.judged = None
        self.best_step, self.best_loss = self._best_so_far()

    def _best_so_far(self) -> tuple[int, float]:
        def look() -> str:
            best = store.best_checkpoint(self.run.checkpoints)
            return json.dumps([best.step, best.val_loss] if best else [-1, None])

        step, loss = json.loads(self.world.broadcast_from_main(look))  # saving takes all ranks, so all must know when
        return step, math.inf if loss is None else loss

    def _through(self, state: State | None) -> RunEnd:
        """To the last step or a signal, whatever happens on the way."""
        while True:
            try:
                return self._run(state, state.step if state else 0)
            except Diverged as accident:
                state = self._rescue(accident)
            except NotLearning as accident:
                raise UserError(accident.what, accident.hint) from None

    def _run(self, state: State | None, reached: int) -> RunEnd:
        """What is pending_hooks from last time, and then step after step."""
        hooks = self._hooks()
        pending_hooks = StepResult(**state.pending_hooks) if state and state.pending_hooks else None
        try:
            if state is None or (state.pending_hooks is not None and not reached):
                self._begin()
            elif pending_hooks:
                call_hooks(hooks, pending_hooks)
        except StopRequested:
            return RunEnd(pending_hooks, pending_hooks=True)
        return train_loop(self.stepper, reached, self.steps, hooks, self.signals, self.guard)

    def _rescue(self, accident: Diverged) -> State:
        """Back to the last good checkpoint, to go on with the text after the one that led here."""
        self._tell_saved(self.saver.finished(wait=True))
        slower = f"--optim.lr {self.settings.optim.lr / 3:.2g}, beside Muon a smaller --optim.muon_lr"
        advice = f"the learning rate is probably too high: train anew with {slower}, or a longer warm-up"
        refusal = UserError(accident.what, advice)
        found = self.world.broadcast_from_main(self._newest) if self.settings.train.rollback else ""
        if not found:
            raise refusal
        state = self.load(found)
        self.rescues[state.step] += 1
        if self.rescues[state.step] > MAX_ROLLBACKS:
            raise refusal
        before = self.stepper.skipped
        after = before.around(state.step, accident.step - 1)
        self.restore(state)
        self.stepper.skipped = after
        self.tracker.close()
        if self.world.is_main:
            store.remove_later(self.run.checkpoints, state.step)  # made on the way that led here
            rewind(
                self.run.folder,
                state.step - (state.pending_hooks is not None),
                keep=(events.Anomaly, events.RolledBack),
            )
        self.tracker = self._heard(state.step)
        self._announce(state.step)
        passed = (before.batch(state.step), after.batch(state.step) - 1)
        self.tracker.record(events.RolledBack(state.step, accident.step, accident.what, passed))
        return state

    def _newest(self) -> str:
        """Rather not one that was saved between steps that went wrong: its weights are those that led to them."""
        good, _ = store.list_checkpoints(self.run.checkpoints)
        healthy = [each for each in good if each.healthy]
        return (healthy or good)[-1].folder.name if good else ""

    def _accident(self, result: StepResult, what: str) -> None:
        """Written down with the place where it began and the text it happened on, before anything else is done."""
        step, batch = result.step - 1, self.settings.train.batch
        where = (
            ""
            if result.is_finite
            else find_anomaly(self.model, self.stepper.objective, self.stepper.micro_batches(step), self.machine)
        )
        first = self.stepper.skipped.batch(step) * batch
        self.tracker.record(
            events.Anomaly(result.step, what, where, result.loss, result.grad_norm, (first, first + batch - 1))
        )

    def _compile_checked(self, check: CompileCheck) -> None:
        step = self.stepper.current
        self.tracker.record(events.CompileChecked(step, check.ok, check.reason))
        if not check.ok:
            self.tracker.record(events.Notice(step, f"warning: {check.reason}: {EAGER_NOTICE}"))

    def _heard(self, reached: int) -> Tracker:
        """The first of a world writes and speaks."""
        if not self.world.is_main:
            return Tracker([])
        return Tracker(build_sinks(self.run.folder, self.settings.track, reached))

    def _announce(self, step: int) -> None:
        machine, compiled = self.machine, compiles(self.settings, self.machine)
        count = parameters(self.settings.model)
        self.tracker.record(
            events.Started(self.run.name, step, self.steps, count, machine.device, machine.dtype, compiled)
        )
        for words in reservations(self.settings, machine):
            self.tracker.record(events.Notice(step, f"warning: {words}"))

    def _begin(self) -> None:
        """Before the first step: what does a model say that knows nothing?"""
        if self._judges(0):
            self._judge(0)
        if self.settings.train.sample_every:
            self._sample(0)

    def _hooks(self) -> list[Hook]:
        """In this order, so that a row of metrics holds its evaluation, and a checkpoint knows its worth."""
        train, last = self.settings.train, self.steps
        return [
            Hook(lambda result: self._judge(result.step), self._judges),
            Hook(self._log, lambda step: step % train.log_every == 0 or step == last or self._judges(step)),
            every(train.sample_every, lambda result: self._sample(result.step), last=last),
            every(1, lambda _: self._tell_saved(self.saver.finished())),
            every(int(self.profile), self._profiled),
            Hook(lambda result: self._save(result.step), self._saves),
        ]

    def _judges(self, step: int) -> bool:
        every = self.settings.train.eval_every or 0
        return bool(every) and (step % every == 0 or step == self.steps) and "val" in self.dataset.held

    def _saves(self, step: int) -> bool:
        """On schedule, at the end, and whenever the model is better than any before."""
        return (
            step % (self.settings.train.save_every or self.steps) == 0 or step == self.steps or step == self.best_step
        )

    def _judge(self, step: int) -> None:
        begun = time.perf_counter()
        split, attentive = self.dataset.split("val"), self.signals.interruptible
        found = evaluate_loss(self.model, split, self.byte_lengths, self.machine, progress=attentive)
        seconds = time.perf_counter() - begun
        self.tracker.record(events.Metrics(step, {**found.metrics(), "val/seconds": seconds}))
        if not math.isfinite(found.loss):
            raise Diverged(step, f"the validation loss became {found.loss} at step {step}")
        self.judged = (step, found.loss)
        if found.loss < self.best_loss:
            self.best_step, self.best_loss = step, found.loss

    def _log(self, result: StepResult) -> None:
        tokens = result.step * self.settings.train.batch * self.settings.model.context  # since the start of the run
        self.tracker.record(events.Metrics(result.step, {**result.metrics(), "train/tokens": tokens}))
        self.guard.look_at_weights(result, checksum(self.model, self.world))

    def _profiled(self, result: StepResult) -> None:
        if self.profiler and self.profiler():
            where = short_path(self.profiler.folder)
            self.tracker.record(
                events.Notice(result.step, f"profile of {PROFILED} steps: {where}/trace.json, operators.txt")
            )

    def _sample(self, step: int) -> None:
        self._refuse_ruined(step)
        track, tokenizer = self.settings.track, self.dataset.tokenizer
        prompt = track.prompt or ""
        row = sampling_strategies(track.temperature)
        pieces = stream_text(
            self.model, tokenizer, prompt, row, self.machine, track.sample_tokens, self.settings.train.seed
        )
        self.tracker.record(events.Sample(step, prompt, "".join(self.signals.interruptible(pieces))))

    def _save(self, step: int, end: RunEnd | None = None) -> None:
        self._refuse_ruined(step)
        with self.signals.deadline.suspended():
            self._save_now(step, end)

    def _save_now(self, step: int, end: RunEnd | None) -> None:
        val_loss = self.judged[1] if self.judged and self.judged[0] == step else None
        pending_hooks = (asdict(end.last) if end.last else {}) if end and end.pending_hooks else None
        in_parts = self.settings.train.sharded_save and is_dtensor(next(self.model.parameters()))
        state = self.captured(step, val_loss, pending_hooks, capture_part if in_parts else capture)
        if in_parts:
            self._tell_saved(self.saver.save_parts(state, self.world))
        elif self.world.is_main:
            self._tell_saved(self.saver.save(state))

    def captured(
        self,
        step: int,
        val_loss: float | None,
        pending_hooks: dict[str, Any] | None,
        taken: Callable[..., State] = capture,
    ) -> State:
        """This very moment, whole: what `restore` needs to go on from it."""
        return taken(
            self.model,
            self.optimizer,
            step,
            self.world,
            val_loss=val_loss,
            scaling=self.stepper.scaling.state_dict(),
            micro_batch=self.stepper.batches.state_dict(),
            pending_hooks=pending_hooks,
            skipped=self.stepper.skipped.skipped,
            compiled=self.stepper.loss.in_use if isinstance(self.stepper.loss, CompiledLoss) else None,
            guard=self.guard.state_dict(),
            about=checkpoint_metadata(to_layer(self.settings), self.dataset),
        )

    def _refuse_ruined(self, step: int) -> None:
        """Loss and gradient are those before the update: whether it broke the weights shows in the weights alone."""
        if not self.world.all_reduce_min(all(is_finite(weight) for weight in self.model.parameters())):
            raise Diverged(step, f"the weights became too large for numbers at step {step}")

    def _tell_saved(self, written: list[SavedCheckpoint]) -> None:
        for each in written:
            self.tracker.record(events.Saved(each.step, each.val_loss, each.seconds, each.held))
