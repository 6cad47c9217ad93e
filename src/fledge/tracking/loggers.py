"""The loggers of a run. A new one, say MLflow, is a file in `sinks/` and a line in `LOGGERS`."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.sinks.base import Sink
from fledge.tracking.sinks.csv import CSVSink
from fledge.tracking.sinks.jsonl import JSONLSink
from fledge.tracking.sinks.samples import SamplesSink
from fledge.tracking.sinks.tensorboard import TensorBoardSink
from fledge.tracking.sinks.trackio import TrackioSink
from fledge.tracking.sinks.wandb import WandbSink
from fledge.tracking.terminal import terminal_view

if TYPE_CHECKING:
    from fledge.tracking.config import TrackConfig

# What `track.loggers` may name: run folder, settings, last step already logged → sink. To add a logger (MLflow, …): a
# file in sinks/, a line here, an extra in pyproject.toml.
LOGGERS: dict[str, Callable[[Path, "TrackConfig", int], Sink]] = {
    "tensorboard": TensorBoardSink,
    "wandb": WandbSink,
    "trackio": TrackioSink,
}


def build_sinks(folder: Path, config: "TrackConfig", last_step: int) -> list[Sink]:
    """All sinks of a run: its files, the terminal, and the loggers that the settings name.

    `last_step`: the last step that earlier processes of this run have logged.
    """
    sinks: list[Sink] = [CSVSink(folder), JSONLSink(folder), SamplesSink(folder), terminal_view(sys.stderr)]
    for name in config.loggers:
        try:
            sinks.append(AsyncSink(name, partial(LOGGERS[name], folder, config, last_step)))
        except UserError:
            raise
        except Exception as error:
            notice(f"warning: the logger '{name}' could not start; training continues without it: {error}")
    return sinks
