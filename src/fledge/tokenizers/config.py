"""[tokenizer]: which tokenizer a dataset is made with."""

from dataclasses import dataclass
from typing import Literal

from fledge.core.config import refuse_odd_counts, setting
from fledge.core.errors import UserError

GPT2_VOCABULARY = 50257
BPE_VOCABULARY = 1024  # where none is asked for: enough for a few megabytes of text and a small model


@dataclass(frozen=True)
class TokenizerConfig:
    kind: Literal["bpe", "char", "gpt2"] = setting("bpe", "frequent pieces of the text, characters, or GPT-2's own")
    vocab_size: int | None = setting(None, "how many tokens; unset: 1024 for bpe, every character for char")
    pattern: Literal["gpt2", "gpt4"] = setting("gpt2", "bpe: how text is cut into words first, as in GPT-2 or GPT-4")
    learn_from: int = setting(256, "bpe: megabytes of text to learn from, spread over all there is")
    unknown: Literal["refuse", "map"] = setting("refuse", "char: other characters are an error, or a '�'")
    end_of_text: bool = setting(True, "put an end-of-text token after every document")
    file: str | None = setting(None, "use this tokenizer.json instead of training one")

    @property
    def size(self) -> int:
        """As asked for, or as usual; by character the text itself decides, and this is only a guess."""
        return self.vocab_size or (GPT2_VOCABULARY if self.kind == "gpt2" else BPE_VOCABULARY)

    def __post_init__(self) -> None:
        refuse_odd_counts(self, "tokenizer", ["learn_from"])
        if self.vocab_size is not None and not 2 <= self.vocab_size <= 2**32:
            raise UserError(f"tokenizer.vocab_size cannot be {self.vocab_size}", "it takes a whole number from 2 up")
        if self.kind == "gpt2" and self.vocab_size not in (None, GPT2_VOCABULARY):
            raise UserError(
                f"GPT-2's encoding has {GPT2_VOCABULARY} tokens, not {self.vocab_size}",
                "leave tokenizer.vocab_size out, or train one of that size: --tokenizer.kind bpe",
            )
