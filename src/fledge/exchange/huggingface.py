"""Read and write Hugging Face folders (config.json, weights, tokenizer), and verify what was written.

The configuration is handled by hf_config.py, the names of the weights by names.py, the tokenizer by hf_tokenizer.py.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fledge.checkpoint.state import Tensors, weights_of
from fledge.core.errors import UserError
from fledge.core.files import read_json
from fledge.exchange import compatibility, hf_config, hf_tokenizer, names
from fledge.exchange.model_source import ExternalModel, ModelFolder, local_model_folder
from fledge.exchange.parity import Parity, compare_logits, probe_text, probe_tokens, reference_model
from fledge.exchange.tensors import convert_weights, read_folder_tensors
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer, fingerprint

CONFIG = "config.json"


def read_hf_folder(folder: ModelFolder, tokenizer: Tokenizer | None = None) -> ExternalModel:
    """The model in a folder, with its own tokenizer unless another is given. The large weights are read last."""
    if CONFIG not in folder:
        raise UserError(
            f"'{folder.name}' holds no {CONFIG}",
            "give a folder that save_pretrained has written, or the path of a checkpoint",
        )
    architecture, model = hf_config.model_from_config(read_json(folder.path(CONFIG), CONFIG), folder.name)
    tokenizer = tokenizer or hf_tokenizer.read_hf_tokenizer(folder, splits_as_gpt2=architecture is hf_config.GPT2)
    hf_tokenizer.check_tokenizer_size(tokenizer, model)
    weights = convert_weights(read_folder_tensors(folder), model, architecture.names, folder.name)
    return ExternalModel(architecture.name, model, weights, tokenizer, hf_tokenizer.read_chat_settings(folder))


def write_hf_folder(folder: Path, model: GPT, tokenizer: Tokenizer) -> str:
    """Write all that transformers needs into an empty folder; return the name of the transformers class."""
    architecture = hf_config.choose_hf_architecture(model.config)
    constraints = architecture.constraints_of(model.config)
    compatible = compatibility.make_compatible(model.config, weights_of(model), constraints)
    weights = names.to_theirs(compatible.weights, compatible.model, architecture.names)
    config = hf_config.config_from_model(compatible.model, architecture)
    write_model_files(folder, config, weights, model.config, tokenizer)
    return architecture.name


def write_model_files(
    folder: Path, config: dict[str, Any], weights: Tensors, model: ModelConfig, tokenizer: Tokenizer, **generation: Any
) -> None:
    """Write the files that every model has, whether its class is part of transformers or not."""
    end = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
    assert model.vocab_size is not None
    if padding := list(range(tokenizer.vocab_size, model.vocab_size)):  # ids that are no tokens are never generated
        generation["suppress_tokens"] = padding
    _write_json(folder / CONFIG, {**config, **end})
    _write_json(folder / hf_tokenizer.GENERATION_CONFIG, {**end, "do_sample": True, "temperature": 0.8, **generation})
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    hf_tokenizer.write_hf_tokenizer(tokenizer, model, folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_hf_folder(folder: Path, model: GPT, tokenizer: Tokenizer, class_name: str) -> Parity:
    """Load the written files with transformers, or with fledge's reference model if it is not installed, and compare
    the logits and the ids of a text."""
    ids = probe_tokens(model)
    transformers = _import_transformers(class_name)
    if transformers is None:
        found = read_hf_folder(local_model_folder(folder))
        if fingerprint(found.tokenizer) != fingerprint(tokenizer):
            raise UserError("the written tokenizer differs from the run's", "please report this")
        logits = reference_model(found.model, found.weights)(ids)
        return compare_logits(model, ids, logits, "fledge")
    text = probe_text(ids, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    if theirs != tokenizer.encode(text).tolist():
        raise UserError(
            "transformers encodes a text differently from this tokenizer", "export a run with another tokenizer"
        )
    name = f"transformers {transformers.__version__}"
    return compare_logits(model, ids, _transformers_logits(transformers, folder, ids), name)


@torch.inference_mode()
def _transformers_logits(transformers: Any, folder: Path, ids: Tensor) -> Tensor:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return theirs.eval()(ids).logits


def _import_transformers(class_name: str) -> Any:
    """The library, silenced, if it is installed and has the class; else None."""
    try:
        library = importlib.import_module("transformers")
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    except ImportError:
        return None
    return library if hasattr(library, class_name) else None
