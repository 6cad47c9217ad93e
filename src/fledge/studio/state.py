"""What the routes share: the folder of runs, and the models that were loaded last.

def route(studio: StudioState, run: str | None = None) -> …:
    loaded = studio.load(run)                  # "hamlet", "hamlet@1000"; None: the latest run
    with studio.computing:                     # one heavy computation at a time
        …
"""

import contextlib
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Annotated

from fastapi import Depends, Request

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.runs.run_folder import CONFIG, LoadedCheckpoint, RunFolder, open_run, split_reference
from fledge.studio.engines import Engines
from fledge.studio.events import EventsCache
from fledge.studio.listing import Listing
from fledge.studio.metrics import MetricsCache
from fledge.studio.recent import Recent
from fledge.studio.training import Training
from fledge.studio.training_data import TrainingData

MODEL_BYTES = 2 << 30  # of the weights that are kept
READING_BYTES = 512 << 20  # of what the microscope keeps: GPT-2 on 256 tokens takes 19 MB a checkpoint


@dataclass
class Studio:
    runs: Path
    device: str = "cpu"
    computing: threading.Lock = field(default_factory=threading.Lock)
    stopping: threading.Event = field(default_factory=threading.Event)  # set when the server ends: streams end, too
    metrics: MetricsCache = field(default_factory=MetricsCache)
    events: EventsCache = field(default_factory=EventsCache)
    engines: Engines = field(default_factory=Engines)
    training_data: TrainingData = field(default_factory=TrainingData)
    readings: Recent[object] = field(default_factory=lambda: Recent(READING_BYTES))
    _models: Recent[LoadedCheckpoint] = field(default_factory=lambda: Recent(MODEL_BYTES, at_least=2))
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.listing = Listing(self.runs, self.metrics)
        self.training = Training(self.runs)

    def open(self, run: str | None) -> RunFolder:
        """The run that a reference names; without an @ its best checkpoint is meant."""
        name = split_reference(run or "")[0]
        if name and not is_run_in(self.runs, name):
            raise UserError(
                f"there is no run '{name}' in the folder of this studio", "choose one from the list of runs"
            )
        return open_run(run or None, self.runs, default="best", verify=False)

    def load(self, run: str | None) -> LoadedCheckpoint:
        """The model of a reference; those used last stay in memory, as long as their files exist."""
        folder = self.open(run)
        with self._loading:
            key = checkpoint_key(folder)
            loaded = self._models.get(key)
            if loaded is None:
                loaded = folder.load(self.device)
                self._models.put(key, loaded, weight_bytes(loaded))
            return loaded


def checkpoint_key(run: RunFolder) -> Hashable:
    """Another one once the checkpoint that is meant has been written again; None: there is none."""
    found = store.matching(store.complete_checkpoints(run.checkpoints), run.selector)
    with contextlib.suppress(FileNotFoundError):
        return (found[-1].folder, (found[-1].folder / store.MANIFEST).stat().st_mtime_ns) if found else None
    return None


def is_run_in(runs: Path, name: str) -> bool:
    """Whether `name` is a run of this folder, or a trial of a sweep in it, and not a path to anywhere else."""
    path = PurePath(name)
    try:
        return not path.is_absolute() and ".." not in path.parts and (runs / path / CONFIG).exists()
    except OSError:  # the name is too long, for one
        return False


def weight_bytes(loaded: LoadedCheckpoint) -> int:
    return sum(p.numel() * p.element_size() for p in loaded.model.parameters())


def the_studio(request: Request) -> Studio:
    studio = request.app.state.studio
    assert isinstance(studio, Studio)
    return studio


StudioState = Annotated[Studio, Depends(the_studio)]
