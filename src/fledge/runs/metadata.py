"""What a run says of its own making, for those who read it later: `run.json`."""

import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from fledge import __version__
from fledge.core import device as machines
from fledge.core.config import Layer
from fledge.core.device import Machine
from fledge.datasets.shards import Dataset
from fledge.tokenizers.base import Tokenizer, fingerprint


def tokenizer_summary(tokenizer: Tokenizer) -> dict[str, Any]:
    """Programs, system and tokenizer: what every run has, also one that was never trained here."""
    return {
        "fledge": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "tokenizer_sha256": fingerprint(tokenizer),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def training_metadata(dataset: Dataset, machine: Machine) -> dict[str, Any]:
    """The same, with the machine that trains and the text that it trains on."""
    return {
        **tokenizer_summary(dataset.tokenizer),
        "processor": machines.hardware(machine.device),
        "cores": machines.cores(),
        "machine": {"device": machine.device, "dtype": machine.dtype, "processes": machine.world.size},
        "dataset": str(dataset.folder.resolve()),
        "dataset_sha256": dataset.fingerprint,
    }


def describe_run(settings: Layer, dataset: Dataset) -> dict[str, Any]:
    """What a checkpoint was made of, so that nobody goes on with something else unawares."""
    return {
        "settings": settings,
        "dataset_sha256": dataset.fingerprint,
        "tokenizer_sha256": fingerprint(dataset.tokenizer),
    }


def commit() -> str | None:
    """Which state of fledge's own code this is, where it runs from a checkout."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
