"""Hugging Face's folders: config.json, weights, tokenizer. In and out, and the proof that what went out is the same.

Describing the model is configs.py, naming its weights names.py, its vocabulary vocabulary.py.
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
from fledge.exchange.model_source import ForeignModel, ModelFolder, local_model_folder
from fledge.exchange.parity import Parity, compare_logits, probe_text, probe_tokens, reference_model
from fledge.exchange.tensors import convert_weights, read_folder_tensors
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer, fingerprint

CONFIG = "config.json"


def read_hf_folder(folder: ModelFolder, given: Tokenizer | None = None) -> ForeignModel:
    """The model of a folder; its own tokenizer, unless another is given. Weights come last: they are what is large."""
    if CONFIG not in folder:
        raise UserError(f"'{folder.name}' holds no {CONFIG}", "give a folder as save_pretrained writes it")
    kind, model = hf_config.model_from_config(read_json(folder.path(CONFIG), CONFIG), folder.name)
    tokenizer = given or hf_tokenizer.read_hf_tokenizer(folder, cuts_as_gpt2=kind is hf_config.GPT2)
    hf_tokenizer.check_tokenizer_size(tokenizer, model)
    return ForeignModel(
        kind.name, model, convert_weights(read_folder_tensors(folder), model, kind.names, folder.name), tokenizer
    )


def write_hf_folder(folder: Path, model: GPT, tokenizer: Tokenizer) -> str:
    """Everything that transformers needs, into an empty folder; gives back the name of the class that it will use."""
    kind = hf_config.choose_hf_architecture(model.config)
    held = compatibility.make_compatible(model.config, weights_of(model), kind.parts(model.config))
    weights = names.to_theirs(held.weights, held.model, kind.names)
    write_model_files(folder, hf_config.config_from_model(held.model, kind), weights, model.config, tokenizer)
    return kind.name


def write_model_files(
    folder: Path, config: dict[str, Any], weights: Tensors, model: ModelConfig, tokenizer: Tokenizer, **generation: Any
) -> None:
    """The files that every model has there, of a class of theirs or of its own."""
    end = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
    _write_json(folder / CONFIG, {**config, **end})
    _write_json(folder / "generation_config.json", {**end, "do_sample": True, "temperature": 0.8, **generation})
    whole = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    hf_tokenizer.write_hf_tokenizer(tokenizer, model, folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_hf_folder(folder: Path, model: GPT, tokenizer: Tokenizer, kind: str) -> Parity:
    """The written files, read by transformers where it is there, else by ourselves with the readable attention."""
    ids = probe_tokens(model)
    transformers = _transformers(kind)
    if transformers is None:
        found = read_hf_folder(local_model_folder(folder))
        if fingerprint(found.tokenizer) != fingerprint(tokenizer):
            raise UserError("the written tokenizer is not the one that was meant", "please report this")
        return compare_logits(model, ids, reference_model(found.model, found.weights)(ids), "fledge, from the files")
    said = probe_text(ids, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(said, add_special_tokens=False)["input_ids"]
    if theirs != tokenizer.encode(said).tolist():
        raise UserError("transformers cuts a text otherwise than this tokenizer", "export with another tokenizer")
    return compare_logits(model, ids, _logits(transformers, folder, ids), f"transformers {transformers.__version__}")


@torch.inference_mode()
def _logits(transformers: Any, folder: Path, ids: Tensor) -> Tensor:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return theirs.eval()(ids).logits


def _transformers(kind: str) -> Any:
    """The library, if it is installed and has the class. It says nothing while it works."""
    try:
        library = importlib.import_module("transformers")
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    except ImportError:
        return None
    return library if hasattr(library, kind) else None
