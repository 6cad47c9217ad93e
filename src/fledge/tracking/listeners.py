"""Who hears what happens in a run: files, which must be exact; a screen; and guests, which may fail or hang."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.config import TrackConfig
from fledge.tracking.sinks import CSVSink, JSONLSink, SamplesSink, Sink, TensorBoardSink, WandbSink
from fledge.tracking.terminal import view


def build_sinks(folder: Path, track: TrackConfig, settings: dict[str, Any], reached: int) -> list[Sink]:
    """`settings`: of the whole run, for trackers that show them; `reached`: the last step that was recorded."""
    sinks: list[Sink] = [CSVSink(folder), JSONLSink(folder), SamplesSink(folder), view(sys.stderr)]
    guests: dict[str, Callable[[], Sink]] = {}
    if track.tensorboard:
        guests["TensorBoard"] = lambda: TensorBoardSink(folder, reached)
    if track.wandb:
        guests["Weights & Biases"] = lambda: WandbSink(folder, track.project, settings)
    for name, guest in guests.items():
        try:
            sinks.append(AsyncSink(name, guest))
        except UserError:
            raise
        except Exception as error:
            notice(f"warning: a tracker could not begin, training goes on without it: {error}")
    return sinks
