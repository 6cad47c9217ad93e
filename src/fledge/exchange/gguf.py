"""GGUF, the one file that llama.cpp and its relatives run: in and out, whole or rounded.

    f32     every number as it is
    f16     matrices in half precision
    q8_0    matrices in blocks of 32: eight bits each, and a scale

What is no matrix (norms, biases), and learned positions, stay f32, as llama.cpp wants them. The library `gguf` knows
the bytes; here is what they mean. Vocabularies are gguf_vocabulary.py.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from fledge.checkpoint.state import weights_of
from fledge.core.errors import UserError
from fledge.exchange import compatibility, gguf_tokenizer, hf_tokenizer, names
from fledge.exchange.compatibility import Constraints, resolved_settings
from fledge.exchange.hf_config import build_model_config
from fledge.exchange.model_source import ForeignModel
from fledge.exchange.names import Names
from fledge.exchange.parity import ALLOWED, Parity, compare_logits, probe_text, probe_tokens, reference_model
from fledge.exchange.tensors import AGAIN, convert_weights
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer

DTYPES = {"f32": (Type.F32, 0), "f16": (Type.F16, 1), "q8_0": (Type.Q8_0, 7)}  # and the number of such a file
BLOCK = 32  # numbers that share a scale in q8_0
ROUNDING = {"f32": 0.0, "f16": 2**-11, "q8_0": 0.005}  # how far a number may move, as a share of the largest beside it


@dataclass(frozen=True)
class GGUFArchitecture:
    """One architecture of llama.cpp: keys begin with its name."""

    name: str
    names: Names
    parts: Callable[[ModelConfig], Constraints]
    keys: Mapping[str, str]  # theirs → ours


SIZES = {
    "block_count": "n_layer",
    "context_length": "context",
    "embedding_length": "n_embd",
    "feed_forward_length": "mlp_width",
    "attention.head_count": "n_head",
    "attention.head_count_kv": "n_kv_head",
}
MODERN = {
    **SIZES,
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rotary_base",
    "attention.layer_norm_rms_epsilon": "norm_eps",
}
FLOATS = ("rotary_base", "norm_eps")
OPTIONAL = {"attention.key_length", "attention.value_length", "rope.dimension_count", "rope.freq_base"} | {
    "attention.head_count_kv"
}


def _gpt2(model: ModelConfig) -> Constraints:
    """llama.cpp computes this one with GPT-2's own GELU only."""
    return compatibility.gpt2(model, mlps=("gelu_tanh",))


def _qwen3(model: ModelConfig) -> Constraints:
    return {**compatibility.qwen3(model), "qkv_bias": False, "output_bias": False}


GGUF_ARCHITECTURES = {
    "llama": GGUFArchitecture("llama", names.GGUF_LLAMA, compatibility.llama, MODERN),
    "qwen2": GGUFArchitecture("qwen2", names.GGUF_QWEN, compatibility.qwen2, MODERN),
    "qwen3": GGUFArchitecture("qwen3", names.GGUF_QWEN, _qwen3, MODERN),
    "gpt2": GGUFArchitecture("gpt2", names.GGUF_GPT2, _gpt2, {**SIZES, "attention.layer_norm_epsilon": "norm_eps"}),
}


def write_gguf(path: Path, model: GPT, tokenizer: Tokenizer, dtype: str, name: str) -> str:
    """The whole model and its tokenizer as one file; gives back the architecture's name."""
    kind = GGUF_ARCHITECTURES[
        compatibility.choose_architecture(
            model.config, {each: GGUF_ARCHITECTURES[each].parts for each in GGUF_ARCHITECTURES}, "GGUF files"
        )
    ]
    said = gguf_tokenizer.to_gguf_vocabulary(tokenizer, model.config)  # may refuse: before anything is written
    held = compatibility.make_compatible(model.config, weights_of(model), kind.parts(model.config))
    file = gguf.GGUFWriter(path, kind.name)
    file.add_name(name)
    file.add_file_type(DTYPES[dtype][1])
    file.add_quantization_version(gguf.GGML_QUANT_VERSION)
    ours = resolved_settings(held.model)
    for key, setting in kind.keys.items():
        add = file.add_float32 if setting in FLOATS else file.add_uint32
        add(f"{kind.name}.{key}", ours[setting])
    file.add_vocab_size(ours["vocab_size"])
    said.add_to(file)
    for their, tensor in names.to_theirs(held.weights, held.model, kind.names).items():
        numbers = tensor.detach().cpu().float().contiguous().numpy()
        chosen = _type(their, tensor, DTYPES[dtype][0])
        with np.errstate(over="ignore"):  # what is too large is found by the check
            file.add_tensor(their, gguf.quantize(numbers, chosen), raw_dtype=chosen)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return kind.name


def _type(name: str, tensor: Tensor, wanted: Type) -> Type:
    if tensor.ndim < 2 or name.startswith("position_embd"):
        return Type.F32
    return Type.F16 if wanted is Type.Q8_0 and tensor.shape[-1] % BLOCK else wanted


def read_gguf(path: Path, given: Tokenizer | None = None) -> ForeignModel:
    """A GGUF of an architecture that we can build, its numbers made whole again."""
    tensors, said = _open(path)
    kind = GGUF_ARCHITECTURES.get(str(said.get("general.architecture")))
    if kind is None:
        raise UserError(
            f"'{path}' is of an architecture that fledge does not know: {said.get('general.architecture')}",
            f"it knows {', '.join(GGUF_ARCHITECTURES)}",
        )
    if _is_scaled(said, f"{kind.name}.rope."):
        raise UserError(f"'{path}' has scaled rotary positions, for which fledge has no part", "plain ones can be read")
    model = _model(path, said, {name: [int(n) for n in reversed(x.shape)] for name, x in tensors.items()}, kind)
    tokenizer = given or gguf_tokenizer.read_gguf_tokenizer(said, str(path))
    hf_tokenizer.check_tokenizer_size(tokenizer, model)
    whole = {name: _whole(path, tensor) for name, tensor in tensors.items()}
    return ForeignModel(kind.name, model, convert_weights(whole, model, kind.names, str(path)), tokenizer)


def _is_scaled(said: Mapping[str, Any], rope: str) -> bool:
    """llama.cpp takes a factor for a linear one where no kind is said, and still reads the factor's old name."""
    kind = said.get(f"{rope}scaling.type", "linear")
    factor = said.get(f"{rope}scaling.factor", said.get(f"{rope}scale_linear", 1.0))
    return kind != "none" and (kind != "linear" or factor not in (0.0, 1.0))


def _open(path: Path) -> tuple[dict[str, gguf.ReaderTensor], dict[str, Any]]:
    """Its tensors by name, still as they are stored, and all that its keys say."""
    try:
        file = gguf.GGUFReader(path)
        return {each.name: each for each in file.tensors}, {key: each.contents() for key, each in file.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise UserError(f"'{path}' is damaged, or no GGUF: {error}", AGAIN) from None


def _whole(path: Path, tensor: gguf.ReaderTensor) -> Tensor:
    try:
        return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    except NotImplementedError:
        raise UserError(
            f"'{path}' holds '{tensor.name}' as {tensor.tensor_type.name}, which cannot be read",
            "take a file in f32, f16 or q8_0",
        ) from None


def _model(path: Path, said: Mapping[str, Any], shapes: Mapping[str, list[int]], kind: GGUFArchitecture) -> ModelConfig:
    """What the keys say, and, where they are silent, what the tensors show."""
    shape: dict[str, Any] = {}
    for key, setting in kind.keys.items():
        value = said.get(f"{kind.name}.{key}")
        if value is None and key not in OPTIONAL:
            raise UserError(f"'{path}' lacks {kind.name}.{key}", AGAIN)
        if value is not None:
            # Stored in single precision: the shortest number that is stored so is the one that was meant.
            shape[setting] = float(str(np.float32(value))) if isinstance(value, float) else value
    first = "blk.0."
    biases = {"output_bias": f"{first}attn_output.bias", "mlp_bias": f"{first}ffn_up.bias"}
    shape |= {setting: name in shapes for setting, name in biases.items()}
    shape |= {"tied": "output.weight" not in shapes, "vocab_size": shapes.get("token_embd.weight", [0])[0]}
    model = build_model_config({**shape, "positions": "learned"}, str(path))
    return build_model_config({**shape, **kind.parts(model)}, str(path))


def check_gguf(path: Path, model: GPT, tokenizer: Tokenizer, dtype: str) -> Parity:
    """The written file, read back and made whole: no weight further off than rounding, and its scores beside ours."""
    found = read_gguf(path)
    meant = compatibility.make_compatible(
        model.config, weights_of(model), GGUF_ARCHITECTURES[found.kind].parts(model.config)
    )
    for name, weight in meant.weights.items():
        difference = (found.weights[name] - weight.cpu()).abs().max()
        if not difference <= ROUNDING[dtype] * weight.abs().max() + 2**-24 * (dtype != "f32"):
            raise UserError(
                f"'{name}' does not fit into {dtype}", "its numbers are too large: export it with --dtype f32"
            )
    ids = probe_tokens(model)
    said = probe_text(ids, tokenizer)
    if found.tokenizer.encode(said).tolist() != tokenizer.encode(said).tolist():
        raise UserError("the written tokenizer is not the one that was meant", "please report this")
    scores = reference_model(found.model, found.weights)(ids)
    allowed = ALLOWED if dtype == "f32" else math.inf  # what rounding does to scores is told, not judged
    return compare_logits(model, ids, scores, f"fledge, from the {dtype} file", allowed)
