"""What all byte-level BPE tokenizers share: how `tokenizer.json` writes bytes, and the content of that file.

Finding merges and applying them is in bpe.py (readable) and hf.py (through the `tokenizers` library).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fledge.core.errors import UserError
from fledge.tokenizers.hf_json import tokenizer_json
from fledge.tokenizers.patterns import PATTERNS

BYTES = 256
RUN_LENGTH = 4096  # characters without two words in them: a run that training cuts


def unicode_to_bytes() -> dict[str, int]:
    """GPT-2's table: `tokenizer.json` writes each byte as one printable character, itself or one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(BYTES + i): b for i, b in enumerate(others)}


UNICODE_TO_BYTE = unicode_to_bytes()
BYTE_TO_UNICODE = {byte: character for character, byte in UNICODE_TO_BYTE.items()}
ALPHABET = [bytes([UNICODE_TO_BYTE[character]]) for character in sorted(UNICODE_TO_BYTE)]  # the first ids, in order


def bytes_to_token(content: bytes) -> str:
    return "".join(BYTE_TO_UNICODE[byte] for byte in content)


def token_to_bytes(token: str) -> bytes:
    return bytes(map(UNICODE_TO_BYTE.__getitem__, token))


def to_utf8(text: str) -> bytes:
    """Encode as UTF-8. A surrogate pair becomes the character that it stands for, a lone surrogate becomes '�'."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def replace_surrogates(text: str) -> str:
    return text if text.isascii() else to_utf8(text).decode()


def split_long_runs(texts: Iterable[str]) -> Iterator[str]:
    """The texts as BPE trains on them: cut after each block of RUN_LENGTH characters that does not hold two words.

    Training takes quadratic time in the length of a chunk, so a long run (one letter a million times, DNA) would
    never finish; and it is no word.
    """
    for text in map(replace_surrogates, texts):
        start = 0
        for end in range(RUN_LENGTH, len(text), RUN_LENGTH):
            if len(text[end - RUN_LENGTH : end].split(None, 1)) < 2:
                yield text[start:end]
                start = end
        yield text[start:]


def check_vocab_size(vocab_size: int, special_tokens: int) -> None:
    """Every byte needs an id, so that every text can be encoded."""
    smallest = BYTES + special_tokens
    if vocab_size < smallest:
        raise UserError(
            f"a byte-level vocabulary cannot have {vocab_size} tokens",
            f"it holds every byte, so {smallest} is the minimum; 4096 suits a small model",
        )


def vocab_too_large(vocab_size: int, possible: int) -> UserError:
    return UserError(
        f"this text is too small for a vocabulary of {vocab_size} tokens: it yields {possible}",
        f"add text, or --tokenizer.vocab_size {possible}",
    )


def bpe_json(
    vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], special: str | None, pattern: str
) -> dict[str, Any]:
    """The content of `tokenizer.json`. `merges` are in the order in which they were learned."""
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
    end = [(vocabulary[special], special)] if special else []
    decoder = _byte_level_json(add_prefix_space=True, use_regex=True)
    return tokenizer_json(model, pre_tokenizer_json(pattern), decoder, end)


def pre_tokenizer_json(pattern: str) -> dict[str, Any]:
    """The `pre_tokenizer` of the file. GPT-2's pattern is built into the library under the name ByteLevel."""
    if pattern == "gpt2":
        return _byte_level_json(add_prefix_space=False, use_regex=True)
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[pattern]}, "behavior": "Isolated", "invert": False}
    byte_level = _byte_level_json(add_prefix_space=False, use_regex=False)
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def _byte_level_json(*, add_prefix_space: bool, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }
