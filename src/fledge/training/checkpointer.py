"""Captures, saves and restores the state of a training run; finds the checkpoint for a rollback.

Saved: weights, optimizer, random generators, and the `components` of `Checkpointer`.
"""

import json
import math
from typing import Any

from fledge.checkpoint import store
from fledge.checkpoint.async_saver import AsyncSaver, SavedCheckpoint
from fledge.checkpoint.state import State, Stateful, capture, restore
from fledge.core.config import to_layer
from fledge.core.distributed import is_dtensor
from fledge.datasets.shards import Dataset
from fledge.runs.metadata import checkpoint_metadata
from fledge.runs.run_folder import RunFolder
from fledge.tracking.rewind import RECORDS
from fledge.training.compiled import CompiledLoss
from fledge.training.config import Settings
from fledge.training.divergence import DivergenceMonitor
from fledge.training.step import TrainStep


class Checkpointer:
    def __init__(
        self, run: RunFolder, settings: Settings, dataset: Dataset, train_step: TrainStep, monitor: DivergenceMonitor
    ) -> None:
        self.run, self.settings, self.dataset = run, settings, dataset
        self.train_step, self.monitor = train_step, monitor
        self.world = train_step.world
        records = [run.folder / name for name in RECORDS]
        self._saver = AsyncSaver(run.checkpoints, settings.train.keep_last, records)
        self.sharded = settings.train.sharded_save and is_dtensor(next(train_step.model.parameters()))
        self.components: dict[str, Stateful] = {
            "step": train_step,
            "loss_scaler": train_step.loss_scaler,
            "divergence": monitor,
        }
        if settings.train.micro_batch == "auto":
            self.components["micro_batch"] = train_step.batches
        if isinstance(train_step.loss, CompiledLoss):
            self.components["compiled"] = train_step.loss

    def capture(
        self, step: int, val_loss: float | None, pending_hooks: dict[str, Any] | None, *, sharded: bool = False
    ) -> State:
        """The state after `step` updates. A collective; whole on the main process unless `sharded`."""
        return capture(
            self.train_step.model,
            self.train_step.optimizer,
            step,
            self.world,
            self.components,
            sharded=sharded,
            val_loss=val_loss,
            pending_hooks=pending_hooks,
            healthy=self.monitor.healthy,
            provenance=checkpoint_metadata(to_layer(self.settings), self.dataset),
        )

    def save(self, step: int, val_loss: float | None, pending_hooks: dict[str, Any] | None) -> list[SavedCheckpoint]:
        """Start saving. A collective; returns what has been saved since the last call."""
        state = self.capture(step, val_loss, pending_hooks, sharded=self.sharded)
        if self.sharded:
            return self._saver.save_sharded(state, self.world)
        return self._saver.save(state) if self.world.is_main else []

    def saved(self, *, wait: bool = False) -> list[SavedCheckpoint]:
        """What has been saved since the last call."""
        return self._saver.finished(wait=wait)

    def close(self) -> None:
        self._saver.close()

    def load(self, name: str) -> State:
        """Read a checkpoint of this run; with FSDP, each rank reads its shards."""
        parameters = dict(self.train_step.model.named_parameters())
        return store.load(store.describe(self.run.checkpoints / name), parameters)

    def restore(self, state: State) -> None:
        restore(state, self.train_step.model, self.train_step.optimizer, self.world, self.components)

    def best(self) -> tuple[int, float]:
        """Step and validation loss of the best checkpoint; (-1, inf) without one. All ranks get the same."""

        def find() -> str:
            best = store.best_checkpoint(self.run.checkpoints)
            return json.dumps([best.step, best.val_loss] if best else [-1, None])

        step, loss = json.loads(self.world.broadcast_from_main(find))
        return step, math.inf if loss is None else loss

    def rollback_target(self) -> str:
        """The newest healthy checkpoint, else the newest, else "".

        A checkpoint saved after skipped updates may have bad weights.
        """

        def find() -> str:
            good, _ = store.list_checkpoints(self.run.checkpoints)
            healthy = [each for each in good if each.healthy]
            return (healthy or good)[-1].folder.name if good else ""

        return self.world.broadcast_from_main(find)
