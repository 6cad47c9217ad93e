"""Read the tensors in other programs' files, and check that they are complete.

Large models are split into several files, with an index that lists the tensors of each. PyTorch's own files are opened
by torch_file.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fledge.checkpoint.state import Tensors, blank_weights
from fledge.core.errors import UserError
from fledge.core.files import read_json
from fledge.exchange.model_source import ModelFolder
from fledge.exchange.names import Names, to_ours, to_theirs
from fledge.exchange.torch_file import DOWNLOAD_AGAIN, read_torch_file
from fledge.model.config import ModelConfig

FLOAT_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
WEIGHT_FILES = (("model", ".safetensors"), ("pytorch_model", ".bin"))
MAX_PROBLEMS = 5  # named in an error message


def holds_weights(folder: ModelFolder) -> bool:
    names = [f"{stem}{suffix}{index}" for stem, suffix in WEIGHT_FILES for index in ("", ".index.json")]
    return any(name in folder for name in names)


def read_folder_tensors(folder: ModelFolder) -> Tensors:
    """All tensors of a folder, from one file or from several; safetensors if both formats are present."""
    for stem, suffix in WEIGHT_FILES:
        single, index = f"{stem}{suffix}", f"{stem}{suffix}.index.json"
        if single in folder:
            return read_tensor_file(folder.path(single))
        if index in folder:
            return _read_indexed_files(folder, index)
    raise UserError(f"'{folder.name}' holds no weights", "it should hold a file model.safetensors or pytorch_model.bin")


def _read_indexed_files(folder: ModelFolder, index: str) -> Tensors:
    file_of_tensor = read_json(folder.path(index), "the index of the weights").get("weight_map")
    if not isinstance(file_of_tensor, dict) or not all(isinstance(name, str) for name in file_of_tensor.values()):
        raise UserError(f"'{index}' of '{folder.name}' has no weight_map", DOWNLOAD_AGAIN)
    tensors: Tensors = {}
    for name in sorted(set(file_of_tensor.values())):
        if name not in folder:
            raise UserError(f"'{folder.name}' lacks '{name}', which its index names", "download or copy that file too")
        tensors |= read_tensor_file(folder.path(name))
    return tensors


def read_tensor_file(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_torch_file(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"'{path}' is not a dictionary of tensors by name", DOWNLOAD_AGAIN)
    return content


def read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"'{path}' is damaged: {error}", DOWNLOAD_AGAIN) from None


def convert_weights(tensors: Mapping[str, torch.Tensor], model: ModelConfig, names: Names, source: str) -> Tensors:
    """Their tensors with our names and layouts, in fp32. Missing, unexpected and misshapen tensors are an error."""
    expected = to_theirs(blank_weights(model), model, names)
    if not any(name.startswith(names.prefix) for name in tensors):
        tensors = {name if name.startswith("lm_head.") else names.prefix + name: x for name, x in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(names.ignored, name)}
    unusable = [f"'{name}' {defect}" for name, tensor in tensors.items() if (defect := tensor_defect(tensor))]
    tensors = tensors if unusable else _drop_tied_head(tensors, model, names)
    problems = [
        *(f"'{name}' is missing" for name in expected if name not in tensors),
        *(f"'{name}' {_why_unexpected(name, tensors, model, names)}" for name in tensors if name not in expected),
        *(
            f"'{name}' has shape {list(tensors[name].shape)}, not {list(blank.shape)}"
            for name, blank in expected.items()
            if name in tensors and tensors[name].shape != blank.shape
        ),
        *unusable,
    ]
    if problems:
        more = f", and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise UserError(
            f"the weights in '{source}' do not match its configuration: {'; '.join(problems[:MAX_PROBLEMS])}{more}",
            "the files belong to different models or are incomplete: download or copy them again",
        )
    ours = to_ours(tensors, model, names)
    # Always copied: several of our tensors may be views of one of theirs.
    return {name: x.to(torch.float32, copy=True, memory_format=torch.contiguous_format) for name, x in ours.items()}


def _why_unexpected(name: str, tensors: Mapping[str, torch.Tensor], model: ModelConfig, names: Names) -> str:
    embed, head = _embedding_and_head(names)
    if model.tied and name == head and embed in tensors:
        return f"differs from '{embed}', and this model has one matrix for both"
    return "is unexpected"


def tensor_defect(tensor: torch.Tensor) -> str:
    """Why the tensor cannot be used as a weight, or an empty string."""
    if tensor.dtype not in FLOAT_DTYPES:
        return f"holds {tensor.dtype} numbers"
    if tensor.layout is not torch.strided or tensor.is_meta:
        return "is not a dense tensor with values"
    holds = tensor.untyped_storage().nbytes() // tensor.element_size()
    return f"claims {tensor.numel():,} numbers and holds {holds:,}" if tensor.numel() > holds else ""


def check_finite(weights: Tensors, source: str) -> None:
    """Refuse NaN and infinity: one of them makes every logit NaN."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"'{name}' of '{source}' contains NaN or infinity",
                "training has diverged or the file is damaged: use an earlier checkpoint, or download it again",
            )


def _drop_tied_head(
    tensors: Mapping[str, torch.Tensor], model: ModelConfig, names: Names
) -> Mapping[str, torch.Tensor]:
    """Without the head if it is tied and stored a second time with equal values."""
    embed, head = _embedding_and_head(names)
    if not model.tied or embed not in tensors or head not in tensors:
        return tensors
    is_copy = tensors[head].dtype == tensors[embed].dtype and torch.equal(tensors[head], tensors[embed])
    return {name: tensor for name, tensor in tensors.items() if not (is_copy and name == head)}


def _embedding_and_head(names: Names) -> tuple[str, str]:
    """The names of the two weights in the other program."""
    theirs = {ours: f"{row.theirs}.weight" for row in names.rows for ours in row.ours}
    return theirs["embed"], theirs["head"]
