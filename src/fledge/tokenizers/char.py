"""One token per character: the simplest tokenizer.

A character outside the vocabulary is refused with its position, or mapped to '�' if asked. It does not split text into
words and does not compress it; bpe.py does.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.tokenizers.hf_json import end_of_text_name, tokenizer_json, unknown_id_error

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
NO_UNKNOWN_TOKEN = "<|unknown|>"  # noqa: S105 — the file's unk_token, in no vocabulary: other programs refuse too
CODE_POINTS = 0x110000  # of Unicode
MISSING = -1


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    counts = np.zeros(CODE_POINTS, dtype=np.int64)
    for text in texts:
        found = np.bincount(code_points(text))  # only as long as the largest code point: short for most texts
        counts[: len(found)] += found
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}


def code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


class CharTokenizer:
    kind = "char"

    def __init__(
        self,
        characters: Iterable[str],
        special: str | None = None,
        *,
        maps_unknown: bool = False,
        added: Sequence[str] = (),
    ) -> None:
        """`characters` in the order of their ids; `special` is the end-of-text token, `added` are further special
        tokens: no text encodes to them."""
        self.characters = list(characters)
        self.specials = [special, *added] if special else list(added)
        self.special = special
        self.maps_unknown = maps_unknown
        self._texts = [*self.characters, *("" for _ in self.specials)]  # by id; special tokens have no text
        self._ids = np.full(CODE_POINTS, MISSING, dtype=np.int32)  # by code point
        self._ids[[ord(c) for c in self.characters]] = np.arange(len(self.characters))
        if maps_unknown:
            self._ids[self._ids == MISSING] = self.characters.index(REPLACEMENT)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, unknown: str = "refuse", special: str | None = None
    ) -> "CharTokenizer":
        """A vocabulary of all characters of the texts, or of the most frequent ones where `vocab_size` limits it."""
        counts = count_characters(texts)
        maps_unknown = unknown == "map"
        if maps_unknown:
            counts.pop(REPLACEMENT, None)  # it gets an id of its own below
        room = len(counts) if vocab_size is None else vocab_size - bool(special) - maps_unknown
        if len(counts) > room and not maps_unknown:
            raise UserError(
                f"the text has {len(counts)} different characters; a vocabulary of {vocab_size} holds {max(room, 0)}",
                "leave out the vocabulary size, or map rare characters to '�': unknown = map",
            )
        if room < 1:
            raise UserError(f"a vocabulary of {vocab_size} holds no characters", "leave out the vocabulary size")
        kept = sorted(counts, key=lambda c: (-counts[c], c))[:room]
        return cls(sorted(kept) + [REPLACEMENT] * maps_unknown, special, maps_unknown=maps_unknown)

    @property
    def vocab_size(self) -> int:
        return len(self._texts)

    @property
    def end_of_text(self) -> int | None:
        return len(self.characters) if self.special else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        ids = self._ids[code_points(text)]
        if len(ids) and ids.min() == MISSING:
            position = int(np.argmax(ids == MISSING))
            character = f"{text[position]!r} (U+{ord(text[position]):04X})"
            line = text.count("\n", 0, position) + 1
            raise UserError(
                f"the character {character} at position {position} (line {line}) is not in the vocabulary",
                "train the tokenizer on this text too, or map unknown characters to '�': unknown = map",
            )
        return ids.astype(np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(map(self._id_to_text, ids))

    def id_to_bytes(self, token: int) -> bytes:
        return self._id_to_text(token).encode("utf-8", "surrogatepass")

    def _id_to_text(self, token: int) -> str:
        if not 0 <= token < self.vocab_size:
            raise unknown_id_error(token, self.vocab_size)
        return self._texts[token]

    def to_json(self) -> dict[str, Any]:
        """For the `tokenizers` library: split into single characters, then look each one up."""
        vocabulary = {c: i for i, c in enumerate(self.characters)}
        specials = list(enumerate(self.specials, len(self.characters)))
        vocabulary |= {name: i for i, name in specials}
        unknown = REPLACEMENT if self.maps_unknown else NO_UNKNOWN_TOKEN
        return tokenizer_json(
            {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
            {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
            {"type": "Fuse"},
            specials,
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CharTokenizer":
        names = [token["content"] for token in content["added_tokens"]]
        special = end_of_text_name(names)
        added = [name for name in names if name != special]
        vocabulary = content["model"]["vocab"]
        characters = sorted((c for c in vocabulary if c not in names), key=vocabulary.__getitem__)
        if any(len(c) != 1 for c in characters) or sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise UserError(
                "this tokenizer.json is not a character vocabulary", "train one with 'fledge tokenizer train'"
            )
        maps_unknown = content["model"]["unk_token"] == REPLACEMENT
        tokenizer = cls(characters, special, maps_unknown=maps_unknown, added=added)
        if not characters or tokenizer.to_json() != content:  # any other setting in the file would be lost
            raise UserError("this tokenizer.json was not written by fledge", "train one with 'fledge tokenizer train'")
        return tokenizer
