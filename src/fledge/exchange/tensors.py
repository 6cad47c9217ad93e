"""Tensors out of other programs' files, and whether they are all there.

safetensors as they are; PyTorch's own files only as far as they hold tensors and plain values, as unpickling anything
else would run whatever the file says. Large models come in several files, with an index that tells what lies where.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fledge.checkpoint.state import Tensors, blank_weights
from fledge.core.errors import UserError
from fledge.core.files import read_json
from fledge.exchange.model_source import ModelFolder
from fledge.exchange.names import Names, to_ours, to_theirs
from fledge.model.config import ModelConfig

NUMBERS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
AGAIN = "fetch or copy the file again"
STEMS = (("model", ".safetensors"), ("pytorch_model", ".bin"))


def read_folder_tensors(folder: ModelFolder) -> Tensors:
    """All tensors of a folder, from one file or from several; safetensors where there is a choice."""
    for stem, ending in STEMS:
        whole, index = f"{stem}{ending}", f"{stem}{ending}.index.json"
        if whole in folder:
            return read_tensor_file(folder.path(whole))
        if index in folder:
            return _read_parts(folder, index)
    raise UserError(f"'{folder.name}' holds no weights", "they are called model.safetensors or pytorch_model.bin")


def _read_parts(folder: ModelFolder, index: str) -> Tensors:
    places = read_json(folder.path(index), "the index of the weights").get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"'{index}' of '{folder.name}' has no map of the weights", AGAIN)
    tensors: Tensors = {}
    for name in sorted(set(places.values())):
        if name not in folder:
            raise UserError(f"'{folder.name}' lacks '{name}', which its index names", "fetch or copy that file too")
        tensors |= read_tensor_file(folder.path(name))
    return tensors


def read_tensor_file(path: Path) -> Tensors:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_torch_file(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise UserError(f"'{path}' does not hold tensors by name", AGAIN)
    return content


def read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"'{path}' is damaged: {error}", AGAIN) from None


def read_torch_file(path: Path) -> Any:
    """PyTorch's own files, for which torch refuses whatever is neither a tensor nor a plain value."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle drives the reader into errors of every kind
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise UserError(f"'{path}' is damaged, or no file of tensors", AGAIN) from None
        raise UserError(
            f"'{path}' holds more than tensors ({culprit[1]}), and opening it could run any program",
            "ask its author for safetensors, or convert it where you trust it",
        ) from None


def convert_weights(found: Mapping[str, torch.Tensor], model: ModelConfig, names: Names, where: str) -> Tensors:
    """Their tensors under our names, in fp32: all of them, or an error that names what does not fit."""
    wanted = to_theirs(blank_weights(model), model, names)
    if not any(name.startswith(names.prefix) for name in found):
        found = {name if name.startswith("lm_head.") else names.prefix + name: x for name, x in found.items()}
    found = {name: tensor for name, tensor in found.items() if not re.fullmatch(names.not_weights, name)}
    odd = [f"'{name}' {what}" for name, tensor in found.items() if (what := _oddity(tensor))]
    found = found if odd else _without_twin(found, model, names)
    problems = [
        *(f"'{name}' is missing" for name in wanted if name not in found),
        *(f"'{name}' is unexpected" for name in found if name not in wanted),
        *(
            f"'{name}' has shape {list(found[name].shape)}, not {list(blank.shape)}"
            for name, blank in wanted.items()
            if name in found and found[name].shape != blank.shape
        ),
        *odd,
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"the weights in '{where}' do not fit its description: {'; '.join(problems[:5])}{more}",
            "the files belong to different models, or are incomplete: fetch or copy them again",
        )
    ours = to_ours(found, model, names)
    # Copied, so that what they held in one piece is now several.
    return {name: x.to(torch.float32, copy=True, memory_format=torch.contiguous_format) for name, x in ours.items()}


def _oddity(tensor: torch.Tensor) -> str:
    """What keeps a tensor from being numbers to compute with, if anything does."""
    if tensor.dtype not in NUMBERS:
        return f"holds {tensor.dtype} numbers"
    return "" if tensor.layout is torch.strided and not tensor.is_meta else "does not hold a number for each place"


def check_finite(weights: Tensors, where: str) -> None:
    """One number that is none makes every score one that is none."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"'{name}' of '{where}' has numbers that are infinite, or none at all",
                "its training went wrong, or the file is damaged: take an earlier one, or fetch it again",
            )


def _without_twin(found: Mapping[str, torch.Tensor], model: ModelConfig, names: Names) -> dict[str, torch.Tensor]:
    """A tied head may be written down a second time; if it is the same, it goes."""
    theirs = {ours: row.theirs for row in names.rows for ours in row.ours}
    embed, head = found.get(f"{theirs['embed']}.weight"), f"{theirs['head']}.weight"
    same = model.tied and head in found and embed is not None and torch.equal(found[head], embed)
    return {name: tensor for name, tensor in found.items() if not (same and name == head)}
