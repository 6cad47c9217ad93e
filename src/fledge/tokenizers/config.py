"""[tokenizer]: the tokenizer of a dataset."""

from dataclasses import dataclass
from typing import Literal

from fledge.core.config import check_counts, setting
from fledge.core.errors import UserError

PRETRAINED = {"gpt2": 50257, "p50k": 50281}  # kinds of OpenAI, with their vocabulary sizes
DEFAULT_BPE_VOCAB_SIZE = 1024  # suits a few megabytes of text and a small model


@dataclass(frozen=True)
class TokenizerConfig:
    kind: Literal["bpe", "char", "gpt2", "p50k"] = setting(
        "bpe", "BPE trained on the text, single characters, GPT-2's BPE, or p50k_base: GPT-2's with runs of spaces"
    )
    vocab_size: int | None = setting(None, "number of tokens; unset: 1024 for bpe, every character for char")
    pattern: Literal["gpt2", "gpt4"] = setting("gpt2", "bpe: split text into words first, as GPT-2 or GPT-4 does")
    learn_from: int = setting(256, "bpe: train on this many megabytes, sampled from the whole text")
    unknown: Literal["refuse", "map"] = setting("refuse", "char: refuse other characters, or map them to '�'")
    end_of_text: bool = setting(True, "put an end-of-text token after every document")
    file: str | None = setting(None, "use this tokenizer.json instead of training a tokenizer")

    @property
    def size(self) -> int:
        """The vocabulary size asked for, or the default; for char it is a guess, as the text decides."""
        return self.vocab_size or PRETRAINED.get(self.kind, DEFAULT_BPE_VOCAB_SIZE)

    def __post_init__(self) -> None:
        check_counts(self, "tokenizer", ["learn_from"])
        if self.vocab_size is not None and not 2 <= self.vocab_size <= 2**32:
            raise UserError(
                f"tokenizer.vocab_size cannot be {self.vocab_size}", "it must be an integer from 2 to 4294967296"
            )
        if self.kind in PRETRAINED and self.vocab_size not in (None, PRETRAINED[self.kind]):
            raise UserError(
                f"the tokenizer {self.kind} has {PRETRAINED[self.kind]} tokens, not {self.vocab_size}",
                "leave out tokenizer.vocab_size, or train a tokenizer of that size: --tokenizer.kind bpe",
            )
