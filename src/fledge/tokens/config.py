"""[tokenizer]: which tokenizer a dataset is made with."""

from dataclasses import dataclass
from typing import Literal

from fledge.base.errors import UserError
from fledge.base.settings import setting


@dataclass(frozen=True)
class TokenizerConfig:
    kind: Literal["bpe", "char"] = setting("bpe", "how text is cut: into frequent pieces, or by character")
    vocab_size: int | None = setting(None, "how many tokens; unset: 1024 for bpe, every character for char")
    unknown: Literal["refuse", "map"] = setting("refuse", "char: other characters are an error, or a '�'")
    end_of_text: bool = setting(True, "put an end-of-text token after every document")
    file: str | None = setting(None, "use this tokenizer.json instead of training one")

    @property
    def usual_size(self) -> int:
        """For bpe: enough for a few megabytes of text and a small model."""
        return 1024

    def __post_init__(self) -> None:
        if self.vocab_size is not None and not 2 <= self.vocab_size <= 2**32:
            raise UserError(f"tokenizer.vocab_size cannot be {self.vocab_size}", "it takes a whole number from 2 up")
