"""Read a model of another program, whichever it is."""

from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.exchange import huggingface, model_source
from fledge.exchange.model_source import TORCH_SUFFIXES, ExternalModel, ModelFolder
from fledge.exchange.tensors import holds_weights
from fledge.exchange.torch_checkpoints.read import read_torch_model
from fledge.exchange.torch_checkpoints.shape import GivenShape
from fledge.exchange.torch_file import is_torch_file
from fledge.text import sources
from fledge.tokenizers.base import Tokenizer, load_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import PRETRAINED
from fledge.tokenizers.create import openai_tokenizer

NANOGPT_CHECKPOINT = "ckpt.pt"


def given_tokenizer(name: str | None, characters: str | None) -> Tokenizer | None:
    if name and characters:
        raise UserError("--tokenizer and --characters both give a vocabulary", "use one of them")
    if characters:
        return CharTokenizer.train(document.text for document in sources.read_source(characters))
    if name in PRETRAINED:
        return openai_tokenizer(name)
    return load_tokenizer(user_path(name)) if name else None


def read_external_model(source: str, tokenizer: Tokenizer | None, given: GivenShape | None = None) -> ExternalModel:
    given = given or GivenShape()
    place = model_source.locate_model(source)
    if isinstance(place, ModelFolder):
        if not _is_hf_folder(place) and (name := _torch_checkpoint(place)):
            return read_torch_model(place.path(name), f"{source}/{name}", tokenizer, given)
        _refuse_heads(given, source)
        return huggingface.read_hf_folder(place, tokenizer)
    if place.suffix == ".gguf":
        _refuse_heads(given, source)
        from fledge.exchange import gguf

        return gguf.read_gguf(place, tokenizer)
    if not is_torch_file(place):
        hint = (
            "give a folder with config.json, a checkpoint (nanoGPT's ckpt.pt, model.pt, model.pth, a .ckpt), or a .gguf"
        )
        raise UserError(f"'{source}' is not a model file that fledge can read", hint)
    return read_torch_model(place, source, tokenizer, given)


def _refuse_heads(given: GivenShape, source: str) -> None:
    if given != GivenShape():
        raise UserError(f"'{source}' says its number of heads itself", "leave out --preset and --model.n_head")


def _is_hf_folder(folder: ModelFolder) -> bool:
    return huggingface.CONFIG in folder and holds_weights(folder)


def _torch_checkpoint(folder: ModelFolder) -> str | None:
    """The only checkpoint of torch.save in a folder, or the one that nanoGPT keeps; None if there is none."""
    found = [name for name in folder.files if Path(name).suffix in TORCH_SUFFIXES]
    if NANOGPT_CHECKPOINT in found or len(found) < 2:
        return NANOGPT_CHECKPOINT if NANOGPT_CHECKPOINT in found else next(iter(found), None)
    listed = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
    address = folder.name if Path(folder.name).exists() or folder.name.startswith("hf://") else f"hf://{folder.name}"
    raise UserError(
        f"'{folder.name}' has {len(found)} checkpoints: {listed}",
        f"give one of them: fledge import {address}/{found[0]}",
    )
