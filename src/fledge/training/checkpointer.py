"""Captures, saves and restores the state of a training run; finds the checkpoint for a rollback;
knows when a save is due by time.

Saved: weights, optimizer, random generators, and the `components` of `Checkpointer`.
"""

import json
from typing import Any

from fledge.checkpoint import store, thinning
from fledge.checkpoint.async_saver import AsyncSaver, SavedCheckpoint
from fledge.checkpoint.save_timer import SaveTimer
from fledge.checkpoint.state import State, Stateful, Tensors, capture, restore
from fledge.core.config import to_layer
from fledge.core.distributed import is_dtensor
from fledge.core.progress import notice
from fledge.runs.metadata import checkpoint_metadata
from fledge.runs.run_folder import RunFolder
from fledge.tracking.rewind import RECORDS
from fledge.training.compiled import CompiledLoss
from fledge.training.config import Settings
from fledge.training.divergence import DivergenceMonitor
from fledge.training.method import Method
from fledge.training.step import TrainStep


class Checkpointer:
    def __init__(
        self, run: RunFolder, settings: Settings, method: Method, train_step: TrainStep, monitor: DivergenceMonitor
    ) -> None:
        self.run, self.settings, self.method = run, settings, method
        self.train_step, self.monitor = train_step, monitor
        self.world = train_step.world
        self.history = self._affordable_history()
        self.timer = SaveTimer(settings.train.save_seconds)
        records = [run.folder / name for name in RECORDS]
        self._saver = AsyncSaver(run.checkpoints, settings.train.keep_last, records, self.history)
        self.sharded = settings.train.sharded_save and is_dtensor(next(train_step.model.parameters()))
        self.components: dict[str, Stateful] = {
            "step": train_step,
            "loss_scaler": train_step.loss_scaler,
            "divergence": monitor,
            **method.components(),
        }
        if settings.train.micro_batch == "auto":
            self.components["micro_batch"] = train_step.batches
        if isinstance(train_step.loss, CompiledLoss):
            self.components["compiled"] = train_step.loss

    def _affordable_history(self) -> tuple[int, ...]:
        """The steps whose weights are kept; fewer where they would fill the disk."""
        wanted, steps = self.settings.train.history, self.settings.train.steps
        weight_bytes = sum(weight.numel() * weight.element_size() for weight in self.train_step.model.parameters())
        found = self.world.broadcast_from_main(lambda: str(thinning.affordable(self.run.folder, wanted, weight_bytes)))
        if (count := int(found)) < wanted and self.world.is_main:
            notice(f"the weights of {count} steps are kept, not of {wanted} (train.history): the disk has little room")
        return thinning.history_steps(steps, count)

    def capture(self, step: int, *, sharded: bool = False, **fields: Any) -> State:
        """The state after `step` updates. A collective; whole on the main process unless `sharded`."""
        return capture(
            self.train_step.model,
            self.train_step.optimizer,
            step,
            self.world,
            self.components,
            sharded=sharded,
            healthy=self.monitor.healthy,
            provenance=checkpoint_metadata(to_layer(self.settings), self.method),
            **fields,
        )

    def is_due(self, step_seconds: float) -> bool:
        """Whether it is time to save before another step of `step_seconds`. Asked on the main process only."""
        return self._saver.idle and self.timer.is_due(step_seconds)

    def save(self, step: int, **fields: Any) -> list[SavedCheckpoint]:
        """Start saving. A collective; returns what has been saved since the last call. `fields`: of a State."""
        state = self.capture(step, sharded=self.sharded, **fields)
        if not state.weights_only:
            self.timer.restart()
        if self.sharded:
            return self._timed(self._saver.save_sharded(state, self.world))
        return self._timed(self._saver.save(state)) if self.world.is_main else []

    def saved(self, *, wait: bool = False) -> list[SavedCheckpoint]:
        """What has been saved since the last call."""
        return self._timed(self._saver.finished(wait=wait))

    def _timed(self, saved: list[SavedCheckpoint]) -> list[SavedCheckpoint]:
        for each in saved:
            if not each.weights_only:
                self.timer.saved_in(max(each.seconds, each.blocked_seconds))
        return saved

    def close(self) -> None:
        self._saver.close()

    def load(self, name: str) -> State:
        """Read a checkpoint of this run; with FSDP, each rank reads its shards."""
        return store.load(store.describe(self.run.checkpoints / name), self.train_step.model.weights())

    def best(self, step: int, val_loss: float) -> tuple[int, float]:
        """Step and validation loss of the best so far; the model has `val_loss` at `step`. A collective."""

        def find() -> str:
            best = store.best_checkpoint(self.run.checkpoints)
            better = best and best.val_loss is not None and best.val_loss < val_loss
            return json.dumps((best.step, best.val_loss) if best and better else (step, val_loss))

        found: tuple[int, float] = tuple(json.loads(self.world.broadcast_from_main(find)))
        return found

    def weights_at(self, step: int) -> Tensors:
        """The weights of a checkpoint of this run; with FSDP, each rank reads its shards."""
        return store.load_weights(store.checkpoint_at(self.run.checkpoints, step), self.train_step.model.weights())

    def restore(self, state: State) -> None:
        restore(state, self.train_step.model, self.train_step.optimizer, self.world, self.components)

    def rollback_target(self) -> str:
        """The name of the checkpoint that a rollback goes to, or ""."""

        def find() -> str:
            found = store.find_intact(self.run.checkpoints, store.rollback_target_of)
            return found.folder.name if found else ""

        return self.world.broadcast_from_main(find)
