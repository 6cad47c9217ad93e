"""What run.json and every checkpoint record about their origin: versions, hardware, hashes."""

import platform
import subprocess
import time
from pathlib import Path
from typing import Any

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


def training_metadata(dataset: Dataset, machine: Machine) -> dict[str, Any]:
    """`software_metadata` plus the hardware and the dataset."""
    return {
        **software_metadata(dataset.tokenizer),
        "processor": hardware(machine.device),
        "cores": usable_cores(),
        "machine": {"device": machine.device, "dtype": machine.dtype, "processes": machine.world.size},
        "dataset": str(dataset.folder.resolve()),
        "dataset_sha256": dataset.fingerprint,
    }


def checkpoint_metadata(settings: Layer, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint was made with: resuming it with anything else is refused."""
    return {
        "settings": settings,
        "dataset_sha256": dataset.fingerprint,
        "tokenizer_sha256": fingerprint(dataset.tokenizer),
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
