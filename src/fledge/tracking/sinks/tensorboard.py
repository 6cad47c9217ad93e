"""Metrics and samples as TensorBoard files in the folder `tensorboard` of the run."""

from pathlib import Path
from typing import TYPE_CHECKING

from fledge.tracking.events import Event, Metrics, Sample
from fledge.tracking.sinks.base import require

if TYPE_CHECKING:
    from fledge.tracking.config import TrackConfig


class TensorBoardSink:
    def __init__(self, folder: Path, _config: "TrackConfig", last_step: int) -> None:
        require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # On resume: hide what an earlier process has logged after the step to continue from.
        purge = last_step + 1 if last_step else None
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)

    def record(self, event: Event) -> None:
        if isinstance(event, Metrics):
            for name, value in event.values.items():
                self._writer.add_scalar(name, value, event.step)
        elif isinstance(event, Sample):
            self._writer.add_text("sample", event.prompt + event.text, event.step)

    def close(self) -> None:
        self._writer.close()
