"""Train a run whose folder has just been created, whatever the method."""

import shutil
from typing import Any

from fledge.checkpoint.state import State
from fledge.core.device import Machine
from fledge.core.errors import Interrupted
from fledge.runs.run_folder import RunFolder
from fledge.training.config import Settings
from fledge.training.method import Method
from fledge.training.result import TrainResult, is_unstarted
from fledge.training.trainer import Trainer


def train_new_run(
    run: RunFolder, settings: Settings, machine: Machine, method: Method, start: State | None, **options: Any
) -> TrainResult:
    """Train; the folder is removed if that fails before the first step. options: of the Trainer."""
    world = machine.world
    try:
        with run.lock(world):
            return Trainer(run, settings, machine, method, **options).fit(start)
    except Interrupted:
        raise
    except BaseException:
        if world.is_main and is_unstarted(run):
            shutil.rmtree(run.folder, ignore_errors=True)
        raise
