"""Read and write GGUF, the single file that llama.cpp and related programs run, in full precision or quantized.

    f32     all numbers as they are
    f16     matrices in half precision
    bf16    the same size: fewer digits, and the range of f32
    q8_0    matrices in blocks of 32 numbers: eight bits each, and one scale

Vectors (norms, biases) and learned positions stay in f32, as llama.cpp expects. The `gguf` library handles the bytes;
this module maps them to our settings and weights. The tokenizer is in gguf_tokenizer.py.
"""

import math
from collections.abc import Mapping
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
from fledge.exchange.compatibility import Constraints, ConstraintsOf, resolved_settings
from fledge.exchange.hf_config import build_model_config
from fledge.exchange.model_source import ExternalModel
from fledge.exchange.names import Names
from fledge.exchange.parity import TOLERANCE, Parity, compare_logits, probe_text, probe_tokens, reference_model
from fledge.exchange.tensors import convert_weights
from fledge.exchange.torch_file import DOWNLOAD_AGAIN
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate

DTYPES = {
    "f32": (Type.F32, 0),
    "f16": (Type.F16, 1),
    "bf16": (Type.BF16, 32),
    "q8_0": (Type.Q8_0, 7),
}  # tensor type, file type
Q8_BLOCK = 32  # numbers that share a scale
MAX_ROUNDING = {
    "f32": 0.0,
    "f16": 2**-11,
    "bf16": 2**-8,
    "q8_0": 0.005,
}  # error, as a share of the tensor's largest
SMALLEST_F16 = 2**-24


@dataclass(frozen=True)
class GGUFArchitecture:
    """An architecture of llama.cpp. Its name is the prefix of its keys."""

    name: str
    names: Names
    constraints_of: ConstraintsOf
    keys: Mapping[str, str]  # their key → our setting


SIZE_KEYS = {
    "block_count": "n_layer",
    "context_length": "context",
    "embedding_length": "n_embd",
    "feed_forward_length": "mlp_width",
    "attention.head_count": "n_head",
    "attention.head_count_kv": "n_kv_head",
}
GPT2_KEYS = {**SIZE_KEYS, "attention.layer_norm_epsilon": "norm_eps"}
MODERN_KEYS = {
    **SIZE_KEYS,
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rotary_base",
    "attention.layer_norm_rms_epsilon": "norm_eps",
}
FLOAT_SETTINGS = ("rotary_base", "norm_eps")
OPTIONAL_KEYS = {
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
}


def _gpt2_constraints(model: ModelConfig) -> Constraints:
    """llama.cpp implements GPT-2 with the tanh approximation of GELU only."""
    return compatibility.gpt2_constraints(model, mlps=("gelu_tanh",))


def _qwen3_constraints(model: ModelConfig) -> Constraints:
    return {**compatibility.qwen3_constraints(model), "qkv_bias": False, "output_bias": False}


GGUF_ARCHITECTURES = {
    each.name: each
    for each in (
        GGUFArchitecture("llama", names.GGUF_LLAMA, compatibility.llama_constraints, MODERN_KEYS),
        GGUFArchitecture("qwen2", names.GGUF_QWEN, compatibility.qwen2_constraints, MODERN_KEYS),
        GGUFArchitecture("qwen3", names.GGUF_QWEN, _qwen3_constraints, MODERN_KEYS),
        GGUFArchitecture("gpt2", names.GGUF_GPT2, _gpt2_constraints, GPT2_KEYS),
    )
}


def write_gguf(
    path: Path, model: GPT, tokenizer: Tokenizer, dtype: str, name: str, template: ChatTemplate | None = None
) -> str:
    """Write the model and its tokenizer into one file; return the name of the architecture."""
    candidates = {each.name: each.constraints_of for each in GGUF_ARCHITECTURES.values()}
    architecture = GGUF_ARCHITECTURES[compatibility.choose_architecture(model.config, candidates, "GGUF")]
    vocabulary = gguf_tokenizer.to_gguf_vocabulary(tokenizer, model.config)  # may raise: before anything is written
    constraints = architecture.constraints_of(model.config)
    compatible = compatibility.make_compatible(model.config, weights_of(model), constraints)
    tensor_type, file_type = DTYPES[dtype]
    file = gguf.GGUFWriter(path, architecture.name)
    file.add_name(name)
    file.add_file_type(file_type)
    file.add_quantization_version(gguf.GGML_QUANT_VERSION)
    settings = resolved_settings(compatible.model)
    for key, setting in architecture.keys.items():
        add = file.add_float32 if setting in FLOAT_SETTINGS else file.add_uint32
        add(f"{architecture.name}.{key}", settings[setting])
    file.add_vocab_size(settings["vocab_size"])
    vocabulary.add_to(file)
    if template is not None:
        gguf_tokenizer.add_chat_template(file, template)
    for their_name, tensor in names.to_theirs(compatible.weights, compatible.model, architecture.names).items():
        numbers = tensor.detach().cpu().float().contiguous().numpy()
        stored = _stored_type(their_name, tensor, tensor_type)
        with np.errstate(over="ignore"):  # check_gguf finds numbers that are too large
            file.add_tensor(their_name, gguf.quantize(numbers, stored), raw_dtype=stored)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return architecture.name


def _stored_type(name: str, tensor: Tensor, wanted: Type) -> Type:
    if tensor.ndim < 2 or name.startswith("position_embd"):
        return Type.F32
    return Type.F16 if wanted is Type.Q8_0 and tensor.shape[-1] % Q8_BLOCK else wanted


def read_gguf(path: Path, tokenizer: Tokenizer | None = None) -> ExternalModel:
    """The model in a GGUF file, dequantized to fp32, with its own tokenizer unless another is given."""
    tensors, metadata = _read_file(path)
    name = metadata.get("general.architecture")
    architecture = GGUF_ARCHITECTURES.get(str(name))
    if architecture is None:
        supported = ", ".join(GGUF_ARCHITECTURES)
        raise UserError(f"'{path}' has an unsupported architecture: {name}", f"fledge supports {supported}")
    if _has_scaled_rope(metadata, f"{architecture.name}.rope."):
        raise UserError(
            f"'{path}' has scaled rotary positions, which fledge does not support", "it supports plain ones"
        )
    shapes = {name: [int(size) for size in reversed(tensor.shape)] for name, tensor in tensors.items()}
    model = _read_model_config(path, metadata, shapes, architecture)
    tokenizer = tokenizer or gguf_tokenizer.read_gguf_tokenizer(metadata, str(path))
    hf_tokenizer.check_tokenizer_size(tokenizer, model)
    dequantized = {name: _dequantize(path, tensor) for name, tensor in tensors.items()}
    weights = convert_weights(dequantized, model, architecture.names, str(path))
    return ExternalModel(architecture.name, model, weights, tokenizer, gguf_tokenizer.read_chat_settings(metadata))


def _has_scaled_rope(metadata: Mapping[str, Any], prefix: str) -> bool:
    """As llama.cpp reads it: a factor without a type means linear scaling, and its old key still counts."""
    kind = metadata.get(f"{prefix}scaling.type", "linear")
    factor = metadata.get(f"{prefix}scaling.factor", metadata.get(f"{prefix}scale_linear", 1.0))
    return kind != "none" and (kind != "linear" or factor not in (0.0, 1.0))


def _read_file(path: Path) -> tuple[dict[str, gguf.ReaderTensor], dict[str, Any]]:
    """The tensors by name, still quantized, and the metadata."""
    try:
        file = gguf.GGUFReader(path)
        return {each.name: each for each in file.tensors}, {key: each.contents() for key, each in file.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise UserError(f"'{path}' is damaged, or not a GGUF: {error}", DOWNLOAD_AGAIN) from None


def _dequantize(path: Path, tensor: gguf.ReaderTensor) -> Tensor:
    try:
        return torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    except NotImplementedError:
        raise UserError(
            f"'{path}' stores '{tensor.name}' as {tensor.tensor_type.name}, which fledge cannot read",
            "use a file in f32, f16, bf16 or q8_0",
        ) from None


def _read_model_config(
    path: Path, metadata: Mapping[str, Any], shapes: Mapping[str, list[int]], architecture: GGUFArchitecture
) -> ModelConfig:
    """The settings from the metadata, and those that it does not contain from the tensors."""
    settings: dict[str, Any] = {}
    for key, setting in architecture.keys.items():
        value = metadata.get(f"{architecture.name}.{key}")
        if value is None and key not in OPTIONAL_KEYS:
            raise UserError(f"'{path}' lacks {architecture.name}.{key}", DOWNLOAD_AGAIN)
        if value is not None:
            # Stored as float32: take the shortest decimal that rounds to it, 1e-05 and not 9.99999974e-06.
            settings[setting] = float(str(np.float32(value))) if isinstance(value, float) else value
    biases = {"output_bias": "blk.0.attn_output.bias", "mlp_bias": "blk.0.ffn_up.bias"}
    settings |= {setting: name in shapes for setting, name in biases.items()}
    settings |= {"tied": "output.weight" not in shapes, "vocab_size": shapes.get("token_embd.weight", [0])[0]}
    provisional = build_model_config({**settings, "positions": "learned"}, str(path))  # constraints depend on a config
    return build_model_config({**settings, **architecture.constraints_of(provisional)}, str(path))


def check_gguf(path: Path, model: GPT, tokenizer: Tokenizer, dtype: str) -> Parity:
    """Read the written file back: compare each weight up to the rounding of `dtype`, the ids of a text, the logits."""
    found = read_gguf(path)
    constraints = GGUF_ARCHITECTURES[found.architecture].constraints_of(model.config)
    expected = compatibility.make_compatible(model.config, weights_of(model), constraints)
    for name, weight in expected.weights.items():
        difference = (found.weights[name] - weight.cpu()).abs().max()
        if not difference <= MAX_ROUNDING[dtype] * weight.abs().max() + SMALLEST_F16 * (dtype != "f32"):
            raise UserError(
                f"'{name}' does not fit into {dtype}", "its numbers are too large: export it with --dtype f32"
            )
    ids = probe_tokens(model)
    text = probe_text(ids, tokenizer)
    if found.tokenizer.encode(text).tolist() != tokenizer.encode(text).tolist():
        raise UserError("the written tokenizer differs from the run's", "please report this")
    logits = reference_model(found.model, found.weights)(ids)
    tolerance = TOLERANCE if dtype == "f32" else math.inf  # the effect of rounding is reported, not limited
    return compare_logits(model, ids, logits, f"fledge from the {dtype} file", tolerance)
