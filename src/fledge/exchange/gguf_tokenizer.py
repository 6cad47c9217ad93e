"""The tokenizer inside a GGUF file: byte-level BPE, and the name of the pre-tokenizer that splits text into words.

llama.cpp knows pre-tokenizers by name only, so only tokenizers whose pre-tokenizer has a name can be exported. The
list of tokens is as long as the model's vocabulary: ids without a token get a placeholder that is marked as unused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
from gguf import TokenType

from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.tokenizers import byte_level, chat_template
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json
from fledge.tokenizers.patterns import GPT4

Json = dict[str, Any]
KEY_PREFIX = "tokenizer.ggml."
ALTERNATIVES = "export it with --to hf, or train a model with --tokenizer.kind bpe"


@dataclass(frozen=True)
class PreTokenizer:
    """How text is split, as `tokenizer.json` describes it."""

    content: Json
    ignore_merges: bool = False  # a word that is a token is encoded as that token, whatever the merges say


def _one_digit_per_chunk() -> Json:
    content = byte_level.pre_tokenizer_json("gpt4")
    content["pretokenizers"][0]["pattern"] = {"Regex": GPT4.replace(r"\p{N}{1,3}", r"\p{N}")}
    return content


def _digits_before_gpt2() -> Json:
    digits = {"type": "Digits", "individual_digits": True}
    return {"type": "Sequence", "pretokenizers": [digits, byte_level.pre_tokenizer_json("gpt2")]}


PRE_TOKENIZERS = {
    "gpt-2": PreTokenizer(byte_level.pre_tokenizer_json("gpt2")),
    "dbrx": PreTokenizer(byte_level.pre_tokenizer_json("gpt4")),
    "llama-bpe": PreTokenizer(byte_level.pre_tokenizer_json("gpt4"), ignore_merges=True),
    "qwen2": PreTokenizer(_one_digit_per_chunk()),
    "smollm": PreTokenizer(_digits_before_gpt2()),
}


@dataclass(frozen=True)
class GGUFVocabulary:
    pre_tokenizer: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    end_of_text: int

    def add_to(self, file: gguf.GGUFWriter) -> None:
        file.add_tokenizer_model("gpt2")
        file.add_tokenizer_pre(self.pre_tokenizer)
        file.add_token_list(self.tokens)
        file.add_token_types(self.types)
        file.add_token_merges(self.merges)
        file.add_bos_token_id(self.end_of_text)
        file.add_eos_token_id(self.end_of_text)
        file.add_add_bos_token(False)


def add_chat_template(file: gguf.GGUFWriter, template: ChatTemplate) -> None:
    """llama.cpp ends an answer at the end-of-turn token, too."""
    file.add_chat_template(template.settings[chat_template.TEMPLATE])
    for token in template.stop_tokens[:1]:
        file.add_eot_token_id(token)


def read_chat_settings(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The chat template of a GGUF, and the tokens that it names."""
    tokens = dict(enumerate(metadata.get(f"{KEY_PREFIX}tokens", [])))
    ids = {"bos_token": "bos_token_id", chat_template.END_OF_TURN: "eos_token_id"}
    named = {name: tokens.get(metadata.get(f"{KEY_PREFIX}{key}", -1)) for name, key in ids.items()}
    return chat_template.chat_settings({**named, chat_template.TEMPLATE: metadata.get("tokenizer.chat_template")})


def to_gguf_vocabulary(tokenizer: Tokenizer, model: ModelConfig) -> GGUFVocabulary:
    """The tokenizer as a GGUF stores it; an error if it cannot."""
    content = tokenizer.to_json()
    decoder_types = {step["type"] for step in _steps(content["decoder"])}
    if "ByteLevel" not in decoder_types or content["model"]["type"] != "BPE":
        kind = "of single characters" if tokenizer.kind == "char" else "of another kind"
        raise UserError(f"a GGUF cannot hold this tokenizer: it is {kind}, not byte-level BPE", ALTERNATIVES)
    pre_tokenizer = _pre_tokenizer_name(content)
    if pre_tokenizer is None:
        raise UserError("a GGUF cannot hold this tokenizer: llama.cpp has no name for its pre-tokenizer", ALTERNATIVES)
    if tokenizer.end_of_text is None:
        raise UserError(
            "a GGUF cannot hold this tokenizer: it has no end-of-text token, and llama.cpp would assume another one",
            "export it with --to hf, or train a model with --tokenizer.end_of_text true",
        )
    assert model.vocab_size is not None
    tokens = [f"[PAD{i}]" for i in range(model.vocab_size)]
    types = [TokenType.UNUSED] * model.vocab_size
    for token, i in content["model"]["vocab"].items():
        tokens[i], types[i] = token, TokenType.NORMAL
    for added in content["added_tokens"]:
        i = added["id"]
        tokens[i], types[i] = added["content"], TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    return GGUFVocabulary(pre_tokenizer, tokens, types, merges, tokenizer.end_of_text)


def _pre_tokenizer_name(content: Json) -> str | None:
    """llama.cpp's name for the pre-tokenizer. NFC normalization is ignored: nearly all text is NFC already."""
    normalizer = content["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        return None
    steps, ignore_merges = _split_steps(content["pre_tokenizer"]), bool(content["model"].get("ignore_merges"))
    for name, known in PRE_TOKENIZERS.items():
        if (_split_steps(known.content), known.ignore_merges) == (steps, ignore_merges):
            return name
    return None


def _split_steps(pre_tokenizer: Json | None) -> list[Json]:
    """The steps, without the key that does not affect how text is split."""
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in _steps(pre_tokenizer)]


def _steps(component: Json | None) -> list[Json]:
    if component is None:
        return []
    inner = component.get("pretokenizers") or component.get("decoders")
    return inner if isinstance(inner, list) else [component]


def read_gguf_tokenizer(metadata: Mapping[str, Any], source: str) -> HFTokenizer:
    """The tokenizer of a GGUF, from the metadata of the file."""
    kind, name = metadata.get(f"{KEY_PREFIX}model"), metadata.get(f"{KEY_PREFIX}pre")
    pre_tokenizer = PRE_TOKENIZERS.get(str(name))
    if kind != "gpt2" or pre_tokenizer is None:
        raise UserError(
            f"fledge cannot read the tokenizer in '{source}': its kind is {kind}, its pre-tokenizer {name}",
            "give the tokenizer.json of the model: --tokenizer FILE",
        )
    try:
        tokens, types, merges = (metadata[f"{KEY_PREFIX}{key}"] for key in ("tokens", "token_type", "merges"))
        return HFTokenizer(_tokenizer_content(tokens, types, merges, pre_tokenizer))
    except Exception as error:  # the `tokenizers` library raises plain Exception for merges of unknown tokens
        raise UserError(
            f"the tokenizer in '{source}' is damaged ({error})", "download or copy the file again"
        ) from None


def _tokenizer_content(tokens: list[str], types: list[int], merges: Iterable[str], pre_tokenizer: PreTokenizer) -> Json:
    typed = [(i, token, TokenType(kind)) for i, (token, kind) in enumerate(zip(tokens, types, strict=True))]
    vocabulary = {token: i for i, token, kind in typed if kind is not TokenType.UNUSED}
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    content = byte_level.bpe_json(vocabulary, pairs, None, "gpt2")
    content["model"]["ignore_merges"] = pre_tokenizer.ignore_merges
    added = added_tokens_json(
        (i, token, kind is TokenType.CONTROL)
        for i, token, kind in typed
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    )
    return {**content, "pre_tokenizer": pre_tokenizer.content, "added_tokens": added}
