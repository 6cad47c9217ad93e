"""Who hears what happens in a run: files, which must be exact; a screen; and guests, which may fail or hang."""

import sys
from collections.abc import Callable
from pathlib import Path

from fledge.core.config import to_layer
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.sinks import CSVSink, JSONLSink, SamplesSink, Sink, TensorBoardSink, WandbSink
from fledge.tracking.terminal import view
from fledge.training.config import Settings


def build_sinks(folder: Path, settings: Settings, reached: int) -> list[Sink]:
    """`reached`: the last step that they have heard of already."""
    track = settings.track
    sinks: list[Sink] = [CSVSink(folder), JSONLSink(folder), SamplesSink(folder), view(sys.stderr)]
    guests: dict[str, Callable[[], Sink]] = {}
    if track.tensorboard:
        guests["TensorBoard"] = lambda: TensorBoardSink(folder, reached)
    if track.wandb:
        guests["Weights & Biases"] = lambda: WandbSink(folder, track.project, to_layer(settings))
    for name, guest in guests.items():
        try:
            sinks.append(AsyncSink(name, guest))
        except UserError:
            raise
        except Exception as error:
            notice(f"warning: a tracker could not begin, training goes on without it: {error}")
    return sinks
