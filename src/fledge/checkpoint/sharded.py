"""A checkpoint in shards: each rank writes the part of every tensor that it holds, and reads what it needs.

    shard-00002-model-00001-of-00002.safetensors    the weights that rank 1 holds
    shard-00002-model-00002-of-00002.safetensors    the rest of what it holds

torch's distributed checkpoint does both, in its safetensors form: a header says where in the whole tensor a shard
belongs, so any number of ranks can read it. Tensor names are GROUP/NAME. The manifest is written by store.py.
"""

import contextlib
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fledge.checkpoint.state import MODEL, Tensors
from fledge.core.distributed import is_dtensor
from fledge.core.files import describe_os_error


def write_shards(folder: Path, groups: Mapping[str, Tensors]) -> None:
    """A collective: all ranks call it together."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    named = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    files = {name: 1 if name.startswith(f"{MODEL}/") else 2 for name in named}  # so that the rest can be removed
    with _plain_errors(folder):
        save(named, storage_writer=HuggingFaceStorageWriter(str(folder), files, save_distributed=True))


def is_weight_shard(file: str) -> bool:
    """Whether a file of this name holds weights."""
    return re.fullmatch(r"shard-\d+-model-00001-of-\d+\.safetensors", file) is not None


def read_shards(folder: Path, like: Mapping[str, Tensor], only: Collection[str] | None = None) -> dict[str, Tensors]:
    """Group → tensors, sharded as the weight of the same name in `like` is, else whole."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {
        name: _empty_like(like.get(name.rpartition("/")[2]), entry.size, entry.properties.dtype)
        for name, entry in found.items()
        if isinstance(entry, TensorStorageMetadata) and (only is None or name.partition("/")[0] in only)
    }
    with warnings.catch_warnings(), _plain_errors(folder):
        warnings.simplefilter("ignore", UserWarning)  # about a single process
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition("/")
        groups.setdefault(group, {})[key] = tensor
    return groups


@contextlib.contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    """Raise the first error of any rank itself; torch collects them in CheckpointException, a BaseException."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as collected:
        first = collected.failures[min(collected.failures)][0]
        raise first if isinstance(first, OSError) else describe_os_error(first, folder) from None


def _empty_like(like: Tensor | None, size: torch.Size, dtype: torch.dtype) -> Tensor:
    if like is not None and is_dtensor(like) and like.shape == size:
        return torch.empty_like(like, dtype=dtype, requires_grad=False)
    return torch.empty(size, dtype=dtype)
