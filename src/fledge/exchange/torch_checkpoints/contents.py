"""What a checkpoint holds: the weights by name, and the settings that were saved beside them.

a state dict alone                                       SmallGPT
{"model": …, "model_args": …}                            nanoGPT
{"model": …, "config": SimpleNamespace}                  smol-GPT
{"model_state_dict": …}                                  SmollGPT, GPT from scratch
{"state_dict": …, "hyper_parameters": …}                 Lightning: toyGPT
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fledge.checkpoint.state import Tensors
from fledge.core.errors import UserError
from fledge.exchange.tensors import tensor_defect
from fledge.exchange.torch_file import DOWNLOAD_AGAIN, read_torch_file

WEIGHTS = ("model", "model_state_dict", "state_dict")
SETTINGS = ("model_args", "config", "hyper_parameters")
WRAPPERS = ("_orig_mod.", "module.")  # torch.compile and DDP put them before each name
HEAD = re.compile(r"(?P<before>.+)\.all_heads\.(?P<head>\d+)\.(?P<after>W_[qkv]\.weight)")
HINT = "give a state dict, or a dictionary that has one as " + ", ".join(f"'{key}'" for key in WEIGHTS)
HEADS = "all_heads"  # how many heads were joined, among the settings


@dataclass(frozen=True)
class Checkpoint:
    tensors: Tensors
    settings: Mapping[str, Any]  # with the names of the program; empty if the file has none


def read_checkpoint(path: Path, source: str) -> Checkpoint:
    content = read_torch_file(path, source)
    if not isinstance(content, dict):
        raise UserError(f"'{source}' holds a {type(content).__name__}, and no weights by name", HINT)
    tensors = next((content[key] for key in WEIGHTS if isinstance(content.get(key), dict)), content)
    if not tensors or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
        held = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise UserError(f"'{source}' is not a checkpoint that fledge knows: it holds {held}", HINT)
    saved = next((value for key in SETTINGS if (value := _as_dict(content.get(key)))), {})
    joined, heads = join_heads({_unwrapped(name): tensor for name, tensor in tensors.items()}, source)
    return Checkpoint(joined, {**saved, **({HEADS: heads} if heads else {})})


def _as_dict(value: object) -> dict[str, Any]:
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    return {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else {}


def _unwrapped(name: str) -> str:
    while wrapper := next((each for each in WRAPPERS if name.startswith(each)), ""):
        name = name.removeprefix(wrapper)
    return name


def join_heads(tensors: Tensors, source: str) -> tuple[Tensors, int]:
    """Matrices of single heads, BLOCK.all_heads.0.W_q.weight …, become one: BLOCK.W_q.weight [heads · D, C].

    Returns how many heads there are, 0 if none.
    """
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := HEAD.fullmatch(name):
            if defect := tensor_defect(tensor):
                raise UserError(f"'{name}' of '{source}' {defect}", DOWNLOAD_AGAIN)
            parts[f"{match['before']}.{match['after']}"][int(match["head"])] = tensor
    shapes = {tensor.shape for heads in parts.values() for tensor in heads.values()}
    count = max((len(heads) for heads in parts.values()), default=0)
    if len(shapes) > 1 or any(sorted(heads) != list(range(count)) for heads in parts.values()):
        raise UserError(f"the heads of '{source}' are incomplete, or differ in shape", DOWNLOAD_AGAIN)
    joined = {name: torch.cat([heads[i] for i in range(count)]) for name, heads in parts.items()}
    return {name: each for name, each in tensors.items() if not HEAD.fullmatch(name)} | joined, count
