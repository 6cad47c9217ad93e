"""Find, read and write the tokenizer files of a Hugging Face folder.

`tokenizer.json` is complete, and is fledge's own format too. The older pair `vocab.json` and `merges.txt` does not say
how text is split into words, so it is read only where that is known to be GPT-2's way.
"""

import json
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError
from fledge.core.files import read_json
from fledge.exchange.model_source import ModelFolder
from fledge.model.config import ModelConfig
from fledge.tokenizers import byte_level, chat_template
from fledge.tokenizers.base import END_OF_TEXT, Tokenizer, load_tokenizer, save_tokenizer
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.tokenizers.hf import HFTokenizer

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"  # newer folders have the template in a file of its own
OLD_FILES = ("vocab.json", "merges.txt")
GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")


def read_hf_tokenizer(folder: ModelFolder, splits_as_gpt2: bool) -> Tokenizer:
    if TOKENIZER in folder:
        return load_tokenizer(folder.path(TOKENIZER))
    if all(name in folder for name in OLD_FILES) and (splits_as_gpt2 or _names_gpt2_class(folder)):
        return join_vocab_and_merges(*(folder.path(name) for name in OLD_FILES))
    raise UserError(
        f"'{folder.name}' holds no {TOKENIZER}, nor GPT-2's vocab.json and merges.txt", "give one: --tokenizer FILE"
    )


def _names_gpt2_class(folder: ModelFolder) -> bool:
    return _read_config(folder).get("tokenizer_class") in GPT2_CLASSES


def _read_config(folder: ModelFolder) -> dict[str, Any]:
    return read_json(folder.path(TOKENIZER_CONFIG), TOKENIZER_CONFIG) if TOKENIZER_CONFIG in folder else {}


def read_chat_settings(folder: ModelFolder) -> dict[str, str]:
    """The chat template of a folder and the tokens that it names; empty where there is none."""
    config = _read_config(folder)
    if CHAT_TEMPLATE in folder:
        config[chat_template.TEMPLATE] = folder.path(CHAT_TEMPLATE).read_text(encoding="utf-8", errors="replace")
    return chat_template.chat_settings(config)


def add_chat_template(folder: Path, template: ChatTemplate) -> None:
    """Add the template to a written folder, with the tokens at which transformers ends an answer."""
    for name, added in (
        (TOKENIZER_CONFIG, template.settings),
        (GENERATION_CONFIG, {"eos_token_id": list(template.stop_tokens)} if template.stop_tokens else {}),
    ):
        content = {**read_json(folder / name, name), **added}
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def join_vocab_and_merges(vocabulary: Path, merges: Path) -> HFTokenizer:
    """One tokenizer from the two old files; the first line of the merges may be a comment."""
    ids = read_json(vocabulary, "the vocabulary")
    try:
        lines = [line for line in merges.read_text("utf-8").split("\n") if line and not line.startswith("#version")]
        pairs = [(first, second) for first, second in (line.split(" ") for line in lines)]
        return HFTokenizer(byte_level.bpe_json(ids, pairs, END_OF_TEXT if END_OF_TEXT in ids else None, "gpt2"))
    except Exception as error:  # the `tokenizers` library raises plain Exception for merges of unknown tokens
        raise UserError(
            f"'{vocabulary}' and '{merges}' are not a valid tokenizer ({error})",
            "download both again, from the same model",
        ) from None


def check_tokenizer_size(tokenizer: Tokenizer, model: ModelConfig) -> None:
    """The model's vocabulary may be larger than the tokenizer's (padded for speed), but never smaller."""
    assert model.vocab_size is not None
    if tokenizer.vocab_size > model.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model has {model.vocab_size}",
            "it belongs to another model: give the right one with --tokenizer FILE",
        )


def write_hf_tokenizer(tokenizer: Tokenizer, model: ModelConfig, folder: Path) -> None:
    save_tokenizer(tokenizer, folder / TOKENIZER)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.context,
        "clean_up_tokenization_spaces": False,
    }
    if end := end_of_text_token(tokenizer):
        config |= {"bos_token": end, "eos_token": end}
    (folder / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def end_of_text_token(tokenizer: Tokenizer) -> str | None:
    """The text of the end-of-text token."""
    added = {token["id"]: str(token["content"]) for token in tokenizer.to_json()["added_tokens"]}
    return None if tokenizer.end_of_text is None else added[tokenizer.end_of_text]
