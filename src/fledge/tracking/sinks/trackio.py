"""Metrics in trackio: on this machine, in the folder TRACKIO_DIR; `trackio show` opens them in a browser.

With TRACKIO_SPACE_ID or TRACKIO_SERVER_URL they go to a Space of Hugging Face, or to a server.
"""

import contextlib
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.tracking.events import Event, Metrics
from fledge.tracking.sinks.base import require, run_id

if TYPE_CHECKING:
    from fledge.tracking.config import TrackConfig


class TrackioSink:
    def __init__(self, folder: Path, config: "TrackConfig", _last_step: int) -> None:
        settings = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        trackio: Any = require("trackio")
        with contextlib.redirect_stdout(sys.stderr):  # it prints; stdout is for the result of a command
            self._run = trackio.init(
                project=config.project,
                name=run_id(folder),
                config=settings,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def record(self, event: Event) -> None:
        if isinstance(event, Metrics):
            self._run.log(event.values, step=event.step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()
