"""What every byte-level tokenizer shares: how bytes are spelled in `tokenizer.json`, and what that file holds.

Knows neither how merges are found (bpe.py, turbo.py) nor how they are applied.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fledge.core.errors import UserError
from fledge.tokenizers.hf_json import frame
from fledge.tokenizers.patterns import GPT4

BYTES = 256
BLOCK = 4096  # characters


def byte_signs() -> dict[str, int]:
    """Byte-level files spell each byte as one printable character: itself, or one from U+0100 on. Sign → byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(BYTES + i): b for i, b in enumerate(others)}


BYTE_OF = byte_signs()
SIGN_OF = {byte: sign for sign, byte in BYTE_OF.items()}
ALPHABET = [bytes([BYTE_OF[sign]]) for sign in sorted(BYTE_OF)]  # the first tokens of a vocabulary, in their order


def spell(piece: bytes) -> str:
    return "".join(SIGN_OF[byte] for byte in piece)


def unspell(signs: str) -> bytes:
    return bytes(BYTE_OF[sign] for sign in signs)


def utf8(text: str) -> bytes:
    """Any text as UTF-8. Surrogates that stand in pairs become the character that they mean; one that stands alone
    means nothing, and becomes '�'."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def well_formed(text: str) -> str:
    return text if text.isascii() else utf8(text).decode()


def learnable(texts: Iterable[str]) -> Iterator[str]:
    """Texts as they are learned from: where a whole block holds no two words (one letter a million times, or DNA), the
    text is cut behind it. Learning from such a run takes time with the square of its length, and it is no word."""
    for text in map(well_formed, texts):
        start = 0
        for end in range(BLOCK, len(text), BLOCK):
            if len(text[end - BLOCK : end].split(None, 1)) < 2:
                yield text[start:end]
                start = end
        yield text[start:]


def check_size(vocab_size: int, specials: int) -> None:
    """Room for every byte, so that every text can be written."""
    least = BYTES + specials
    if vocab_size < least:
        raise UserError(
            f"a byte-level vocabulary cannot have {vocab_size} tokens",
            f"it holds every byte, so it starts at {least}; 4096 suits a small model",
        )


def too_large(vocab_size: int, possible: int) -> UserError:
    return UserError(f"the text allows only {possible} tokens, not {vocab_size}", "ask for fewer, or give more text")


def content(
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
    return frame(model, cutter(pattern), _byte_level(prefix=True, cuts=True), end)


def cutter(pattern: str) -> dict[str, Any]:
    """The part of the file that cuts text. GPT-2's pattern is built into the library under the name ByteLevel."""
    if pattern == "gpt2":
        return _byte_level(prefix=False, cuts=True)
    split = {"type": "Split", "pattern": {"Regex": GPT4}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(prefix=False, cuts=False)]}


def _byte_level(*, prefix: bool, cuts: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": cuts}
