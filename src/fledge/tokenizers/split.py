"""How a text is split into tokens, one by one, with the figures of the whole text."""

from collections.abc import Sequence
from dataclasses import dataclass

from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.report import TokenizerCounts


@dataclass(frozen=True)
class TextToken:
    id: int
    text: str  # decoded alone: '�' where it holds a part of a character
    bytes: str  # hexadecimal
    count: int  # of this id in the text
    character: str  # what its bytes are a part of; empty where the token holds whole characters


@dataclass(frozen=True)
class TextSplit:
    tokens: list[TextToken]  # the first ones of a long text; the figures count all
    total: int
    characters: int
    bytes: int
    distinct: int  # different tokens
    characters_per_token: float
    bytes_per_token: float
    tokens_per_word: float
    vocab_size: int


def split_text(tokenizer: Tokenizer, text: str, limit: int | None = None) -> TextSplit:
    """Split `text`; describe at most `limit` tokens one by one."""
    counts = TokenizerCounts(tokenizer)
    ids = counts.add(text)
    shown, figures = ids[:limit].tolist(), counts.result()
    contents = [tokenizer.id_to_bytes(i) for i in shown]
    tokens = [
        TextToken(i, content.decode("utf-8", "replace"), content.hex(), int(counts.token_counts[i]), character)
        for i, content, character in zip(shown, contents, split_characters(contents), strict=True)
    ]
    return TextSplit(
        tokens=tokens,
        total=len(ids),
        characters=len(text),
        bytes=figures["bytes"],
        distinct=int((counts.token_counts > 0).sum()),
        characters_per_token=len(text) / max(len(ids), 1),
        bytes_per_token=figures["bytes_per_token"],
        tokens_per_word=figures["tokens_per_word"],
        vocab_size=tokenizer.vocab_size,
    )


def split_characters(contents: Sequence[bytes]) -> list[str]:
    """For each token the characters that it shares with its neighbors: 🙂 for each of b'\\xf0\\x9f', b'\\x99\\x82'.

    Tokens belong together as long as their bytes do not end with a character."""
    found = [""] * len(contents)
    start, joined = 0, b""
    for end, content in enumerate(contents, 1):
        joined += content
        try:
            character = joined.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                continue
            character = ""  # not UTF-8, whatever follows
        if end - start > 1:
            found[start:end] = [character] * (end - start)
        start, joined = end, b""
    return found
