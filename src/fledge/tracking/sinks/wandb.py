"""Metrics on Weights & Biases. With WANDB_MODE=offline it needs no network."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.tracking.events import Event, Metrics
from fledge.tracking.sinks.base import require, run_id

if TYPE_CHECKING:
    from fledge.tracking.config import TrackConfig


class WandbSink:
    def __init__(self, folder: Path, config: "TrackConfig", _last_step: int) -> None:
        settings = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        wandb: Any = require("wandb")
        self._run = wandb.init(
            project=config.project,
            name=folder.name,
            dir=str(folder),
            config=settings,
            id=run_id(folder),
            resume="allow",
        )

    def record(self, event: Event) -> None:
        if isinstance(event, Metrics):
            self._run.log(event.values, step=event.step)

    def close(self) -> None:
        self._run.finish()
