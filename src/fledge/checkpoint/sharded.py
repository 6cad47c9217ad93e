"""A checkpoint in parts: each rank writes what it holds of every tensor, in a file of its own, and reads what it needs.

torch's distributed checkpoint does both, in its safetensors form: a header says where in the whole tensor a part
belongs, so any number of ranks can read what any other has written. What is in the manifest is store.py's business.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fledge.checkpoint.state import Tensors
from fledge.core.distributed import is_dtensor
from fledge.core.files import describe_os_error

MODEL, MEMORY = "model", "optimizer"  # what names begin with


def write(folder: Path, tensors: Tensors) -> None:
    """Called by all ranks together."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with _local_text(folder):
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read(folder: Path, kind: str, like: Mapping[str, Tensor]) -> Tensors:
    """Those of a kind, MODEL or MEMORY: spread over ranks where the weight of that name is, else whole."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    held = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: _empty_like(like.get(name.rpartition("/")[2]), facts.size, facts.properties.dtype)
        for name, facts in held.items()
        if name.startswith(f"{kind}/") and isinstance(facts, TensorStorageMetadata)
    }
    with warnings.catch_warnings(), _local_text(folder):
        warnings.simplefilter("ignore", UserWarning)  # that there is one process only
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return {name.removeprefix(f"{kind}/"): tensor for name, tensor in tensors.items()}


@contextlib.contextmanager
def _local_text(folder: Path) -> Iterator[None]:
    """torch gathers what went wrong on any rank into something that is no Exception: the first of these, as it was."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as gathered:
        first = gathered.failures[min(gathered.failures)][0]
        raise first if isinstance(first, OSError) else describe_os_error(first, folder) from None


def _empty_like(like: Tensor | None, size: torch.Size, dtype: torch.dtype) -> Tensor:
    if like is not None and is_dtensor(like) and like.shape == size:
        return torch.empty_like(like, dtype=dtype, requires_grad=False)
    return torch.empty(size, dtype=dtype)
