"""What run.json and every checkpoint record about their origin: versions, hardware, hashes."""

import platform
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from fledge import __version__
from fledge.core.cgroups import usable_cores
from fledge.core.config import Layer
from fledge.core.device import Machine, hardware
from fledge.datasets.shards import Dataset
from fledge.tokenizers.base import Tokenizer, fingerprint


def software_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """Versions, system and tokenizer: what an imported run has, too."""
    return {
        "fledge": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "tokenizer_sha256": fingerprint(tokenizer),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class TrainedOn(Protocol):
    """A dataset, or anything else that a run is trained on."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...


def run_metadata(data: TrainedOn, machine: Machine) -> dict[str, Any]:
    """`software_metadata` plus the hardware and the data."""
    return {
        **software_metadata(data.tokenizer),
        "processor": hardware(machine.device),
        "cores": usable_cores(),
        "machine": {"device": machine.device, "dtype": machine.dtype, "processes": machine.world.size},
        "dataset_sha256": data.fingerprint,
    }


def training_metadata(dataset: Dataset, machine: Machine) -> dict[str, Any]:
    """`run_metadata` plus the place of the dataset."""
    return {**run_metadata(dataset, machine), "dataset": str(dataset.folder.resolve())}


def checkpoint_metadata(settings: Layer, data: TrainedOn) -> dict[str, Any]:
    """What a checkpoint was made with: resuming it with anything else is refused."""
    return {
        "settings": settings,
        "dataset_sha256": data.fingerprint,
        "tokenizer_sha256": fingerprint(data.tokenizer),
    }


def git_commit() -> str | None:
    """The commit of fledge itself, where it runs from a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
