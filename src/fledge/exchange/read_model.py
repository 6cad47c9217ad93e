"""Read a model of another program, whichever it is."""

from fledge.core.errors import UserError
from fledge.exchange import huggingface, model_source, nanogpt
from fledge.exchange.model_source import ExternalModel, ModelFolder
from fledge.text import sources
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import pretrained_tokenizer

NANOGPT_CHECKPOINT = "ckpt.pt"


def given_tokenizer(name: str | None, characters: str | None) -> Tokenizer | None:
    if name and characters:
        raise UserError("--tokenizer and --characters both give a vocabulary", "use one of them")
    if characters:
        return CharTokenizer.train(document.text for document in sources.read_source(characters))
    if name == "gpt2":
        return pretrained_tokenizer(TokenizerConfig(kind="gpt2"))
    return pretrained_tokenizer(TokenizerConfig(file=name)) if name else None


def read_external_model(source: str, tokenizer: Tokenizer | None) -> ExternalModel:
    place = model_source.locate_model(source)
    if isinstance(place, ModelFolder):
        if huggingface.CONFIG not in place and NANOGPT_CHECKPOINT in place:
            return nanogpt.read_nanogpt(place.path(NANOGPT_CHECKPOINT), tokenizer)
        return huggingface.read_hf_folder(place, tokenizer)
    if place.suffix == ".gguf":
        from fledge.exchange import gguf

        return gguf.read_gguf(place, tokenizer)
    if place.suffix != ".pt":
        hint = "give a folder with config.json, nanoGPT's ckpt.pt, or a .gguf"
        raise UserError(f"'{source}' is not a supported model file", hint)
    return nanogpt.read_nanogpt(place, tokenizer)
