"""The tokenizer inside a GGUF: byte-level BPE, and the name of the rule that cuts text into words before.

llama.cpp knows such rules by name only, so only tokenizers whose rule has a name can go there. A vocabulary is as long
as the model's: places without a token are filled with names that are marked as unused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
from gguf import TokenType

from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.tokenizers import byte_level
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.patterns import GPT4

Json = dict[str, Any]
KEY = "tokenizer.ggml."
OTHERS = "export it with --to hf, or train with bytes: --tokenizer.kind bpe"


@dataclass(frozen=True)
class SplitRule:
    """How text is cut, as `tokenizer.json` has it; and whether a word that is a token is one, whatever the merges."""

    cutter: Json
    ignores_merges: bool = False


def _digit_by_digit() -> Json:
    cutter = byte_level.pre_tokenizer_json("gpt4")
    cutter["pretokenizers"][0]["pattern"] = {"Regex": GPT4.replace(r"\p{N}{1,3}", r"\p{N}")}
    return cutter


def _digits_first() -> Json:
    digits = {"type": "Digits", "individual_digits": True}
    return {"type": "Sequence", "pretokenizers": [digits, byte_level.pre_tokenizer_json("gpt2")]}


SPLIT_RULES = {
    "gpt-2": SplitRule(byte_level.pre_tokenizer_json("gpt2")),
    "dbrx": SplitRule(byte_level.pre_tokenizer_json("gpt4")),
    "llama-bpe": SplitRule(byte_level.pre_tokenizer_json("gpt4"), ignores_merges=True),
    "qwen2": SplitRule(_digit_by_digit()),
    "smollm": SplitRule(_digits_first()),
}


@dataclass(frozen=True)
class GGUFVocabulary:
    rule: str
    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    end: int

    def add_to(self, file: gguf.GGUFWriter) -> None:
        file.add_tokenizer_model("gpt2")
        file.add_tokenizer_pre(self.rule)
        file.add_token_list(self.tokens)
        file.add_token_types(self.types)
        file.add_token_merges(self.merges)
        file.add_bos_token_id(self.end)
        file.add_eos_token_id(self.end)
        file.add_add_bos_token(False)


def to_gguf_vocabulary(tokenizer: Tokenizer, model: ModelConfig) -> GGUFVocabulary:
    """The tokenizer as llama.cpp wants it, if it can be told there."""
    content = tokenizer.to_json()
    if "ByteLevel" not in {step["type"] for step in _steps(content["decoder"])} or content["model"]["type"] != "BPE":
        raise UserError(f"a GGUF cannot hold this tokenizer: it is {_kind(tokenizer)}, not byte-level BPE", OTHERS)
    rule = _rule(content)
    if rule is None:
        raise UserError("a GGUF cannot hold this tokenizer: llama.cpp has no name for how it cuts text", OTHERS)
    if tokenizer.end_of_text is None:
        raise UserError(
            "a GGUF cannot hold this tokenizer: it has no end-of-text token, and llama.cpp would take another for it",
            "export it with --to hf, or train with one: --tokenizer.end_of_text true",
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
    return GGUFVocabulary(rule, tokens, types, merges, tokenizer.end_of_text)


def _kind(tokenizer: Tokenizer) -> str:
    return "one of characters" if tokenizer.kind == "char" else "of another kind"


def _rule(content: Json) -> str | None:
    """The name of the rule. NFC may come before it: text is hardly ever written otherwise."""
    normalizer = content["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        return None
    meant = (_essence(content["pre_tokenizer"]), bool(content["model"].get("ignore_merges")))
    return next(
        (name for name, rule in SPLIT_RULES.items() if (_essence(rule.cutter), rule.ignores_merges) == meant), None
    )


def _essence(cutter: Json | None) -> list[Json]:
    """Its steps, without what says nothing about where text is cut."""
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in _steps(cutter)]


def _steps(part: Json | None) -> list[Json]:
    if part is None:
        return []
    inner = part.get("pretokenizers") or part.get("decoders")
    return inner if isinstance(inner, list) else [part]


def read_gguf_tokenizer(said: Mapping[str, Any], where: str) -> HFTokenizer:
    """The tokenizer of a GGUF, from what its keys say."""
    kind, rule = said.get(f"{KEY}model"), SPLIT_RULES.get(str(said.get(f"{KEY}pre")))
    if kind != "gpt2" or rule is None:
        raise UserError(
            f"the tokenizer in '{where}' is of a kind that fledge does not read from a GGUF"
            f" ({kind}, {said.get(f'{KEY}pre')})",
            "name the model's tokenizer.json: --tokenizer FILE",
        )
    try:
        return HFTokenizer(_content(said[f"{KEY}tokens"], said[f"{KEY}token_type"], said[f"{KEY}merges"], rule))
    except Exception as error:  # the library raises bare Exceptions for merges of unknown tokens
        raise UserError(f"the tokenizer in '{where}' is damaged ({error})", "fetch or copy the file again") from None


def _content(tokens: list[str], types: list[int], merges: Iterable[str], rule: SplitRule) -> Json:
    named = [(token, i, TokenType(kind)) for i, (token, kind) in enumerate(zip(tokens, types, strict=True))]
    vocabulary = {token: i for token, i, kind in named if kind is not TokenType.UNUSED}
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    content = byte_level.bpe_json(vocabulary, pairs, None, "gpt2")
    content["model"]["ignore_merges"] = rule.ignores_merges
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": i, "content": token, **flags, "special": kind is TokenType.CONTROL}
        for token, i, kind in named
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    return {**content, "pre_tokenizer": rule.cutter, "added_tokens": added}
