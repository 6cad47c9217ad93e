"""What every byte-level tokenizer shares: how bytes are spelled in `tokenizer.json`, and what that file holds.

Knows neither how merges are found (bpe.py, turbo.py) nor how they are applied.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fledge.core.errors import UserError
from fledge.tokenizers.hf_json import tokenizer_json
from fledge.tokenizers.patterns import GPT4

BYTES = 256
BLOCK = 4096  # characters


def unicode_to_bytes() -> dict[str, int]:
    """Byte-level files spell each byte as one printable character: itself, or one from U+0100 on. Sign → byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(BYTES + i): b for i, b in enumerate(others)}


UNICODE_TO_BYTE = unicode_to_bytes()
BYTE_TO_UNICODE = {byte: sign for sign, byte in UNICODE_TO_BYTE.items()}
ALPHABET = [bytes([UNICODE_TO_BYTE[sign]]) for sign in sorted(UNICODE_TO_BYTE)]  # the first ids, in order


def bytes_to_token(piece: bytes) -> str:
    return "".join(BYTE_TO_UNICODE[byte] for byte in piece)


def token_to_bytes(signs: str) -> bytes:
    return bytes(UNICODE_TO_BYTE[sign] for sign in signs)


def to_utf8(text: str) -> bytes:
    """Any text as UTF-8. Surrogates that stand in pairs become the character that they mean; one that stands alone
    means nothing, and becomes '�'."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def replace_surrogates(text: str) -> str:
    return text if text.isascii() else to_utf8(text).decode()


def split_long_runs(texts: Iterable[str]) -> Iterator[str]:
    """Texts as they are learned from: where a whole block holds no two words (one letter a million times, or DNA), the
    text is cut behind it. Learning from such a run takes time with the square of its length, and it is no word."""
    for text in map(replace_surrogates, texts):
        start = 0
        for end in range(BLOCK, len(text), BLOCK):
            if len(text[end - BLOCK : end].split(None, 1)) < 2:
                yield text[start:end]
                start = end
        yield text[start:]


def check_vocab_size(vocab_size: int, specials: int) -> None:
    """Room for every byte, so that every text can be written."""
    least = BYTES + specials
    if vocab_size < least:
        raise UserError(
            f"a byte-level vocabulary cannot have {vocab_size} tokens",
            f"it holds every byte, so it starts at {least}; 4096 suits a small model",
        )


def vocab_too_large(vocab_size: int, possible: int) -> UserError:
    return UserError(f"the text allows only {possible} tokens, not {vocab_size}", "ask for fewer, or give more text")


def bpe_json(
    vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], special: str | None, pattern: str
) -> dict[str, Any]:
    """A whole `tokenizer.json`. Its merges are in the order in which they were learned."""
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocabulary),
        "merges": [list(pair) for pair in merges],
    }
    end = (vocabulary[special], special) if special else None
    return tokenizer_json(model, pre_tokenizer_json(pattern), _byte_level(prefix=True, cuts=True), end)


def pre_tokenizer_json(pattern: str) -> dict[str, Any]:
    """The part of the file that cuts text. GPT-2's pattern is built into the library under the name ByteLevel."""
    if pattern == "gpt2":
        return _byte_level(prefix=False, cuts=True)
    split = {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(prefix=False, cuts=False)]}


def _byte_level(*, prefix: bool, cuts: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": cuts}
