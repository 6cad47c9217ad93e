"""One character, one token: the smallest tokenizer there is.

A character that was not there when the tokenizer was made is refused, with its position; or, if asked,
replaced by '�'. Does not split words and does not compress; see bpe.py for that.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.tokenizers.hf_json import tokenizer_json, unknown_id_error

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
REFUSED = "<|unknown|>"  # named as the unknown token but in no vocabulary: other programs refuse too
UNICODE = 0x110000  # one place for every character there can be
NOT_THERE = -1


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    counts = np.zeros(UNICODE, dtype=np.int64)
    for text in texts:
        here = np.bincount(code_points(text))  # as long as the largest code asks for: for most texts that is short
        counts[: len(here)] += here
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts)}


def code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


class CharTokenizer:
    kind = "char"

    def __init__(self, characters: Iterable[str], special: str | None = None, *, maps_unknown: bool = False) -> None:
        """`characters` in the order of their ids; `special` is an end-of-text token that no text can spell."""
        self.characters = list(characters)
        self.special = special
        self.maps_unknown = maps_unknown
        self._text = [*self.characters, ""] if special else self.characters  # id → text; special ids say nothing
        self._id = np.full(UNICODE, NOT_THERE, dtype=np.int32)
        self._id[[ord(c) for c in self.characters]] = np.arange(len(self.characters))
        if maps_unknown:
            self._id[self._id == NOT_THERE] = self.characters.index(REPLACEMENT)

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int | None = None, unknown: str = "refuse", special: str | None = None
    ) -> "CharTokenizer":
        """Every character of the texts, or the most frequent ones where `vocab_size` limits them."""
        counts = count_characters(texts)
        maps_unknown = unknown == "map"
        if maps_unknown:
            counts.pop(REPLACEMENT, None)  # it gets its own place below
        room = len(counts) if vocab_size is None else vocab_size - bool(special) - maps_unknown
        if len(counts) > room and not maps_unknown:
            raise UserError(
                f"the text has {len(counts)} different characters; a vocabulary of {vocab_size} holds {max(room, 0)}",
                "leave the vocabulary size out, or let rare characters become '�': unknown = map",
            )
        if room < 1:
            raise UserError(f"a vocabulary of {vocab_size} holds no characters", "leave the vocabulary size out")
        kept = sorted(counts, key=lambda c: (-counts[c], c))[:room]
        return cls(sorted(kept) + [REPLACEMENT] * maps_unknown, special, maps_unknown=maps_unknown)

    @property
    def vocab_size(self) -> int:
        return len(self._text)

    @property
    def end_of_text(self) -> int | None:
        return len(self.characters) if self.special else None

    def encode(self, text: str) -> NDArray[np.uint32]:
        ids = self._id[code_points(text)]
        if len(ids) and ids.min() == NOT_THERE:
            at = int(np.argmax(ids == NOT_THERE))
            what = f"{text[at]!r} (U+{ord(text[at]):04X})"
            where = f"position {at} (line {text.count(chr(10), 0, at) + 1})"
            raise UserError(
                f"the character {what} at {where} is not in the vocabulary",
                "train the tokenizer on this text too, or let other characters become '�': unknown = map",
            )
        return ids.astype(np.uint32)

    def encode_batch(self, texts: Iterable[str]) -> list[NDArray[np.uint32]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(map(self._text_of, ids))

    def id_to_bytes(self, token: int) -> bytes:
        return self._text_of(token).encode("utf-8", "surrogatepass")

    def _text_of(self, token: int) -> str:
        if not 0 <= token < self.vocab_size:
            raise unknown_id_error(token, self.vocab_size)
        return self._text[token]

    def to_json(self) -> dict[str, Any]:
        """As the `tokenizers` library understands it: split into single characters, then look each one up."""
        vocabulary = {c: i for i, c in enumerate(self.characters)}
        end = (len(self.characters), self.special) if self.special else None
        if end:
            vocabulary[end[1]] = end[0]
        unknown = REPLACEMENT if self.maps_unknown else REFUSED
        return tokenizer_json(
            {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
            {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
            {"type": "Fuse"},
            end,
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CharTokenizer":
        special = next((token["content"] for token in content["added_tokens"]), None)
        vocabulary = content["model"]["vocab"]
        characters = sorted((c for c in vocabulary if c != special), key=vocabulary.__getitem__)
        if any(len(c) != 1 for c in characters) or sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise UserError(
                "this tokenizer.json is not one of single characters", "make one with 'fledge tokenizer train'"
            )
        made = cls(characters, special, maps_unknown=content["model"]["unk_token"] == REPLACEMENT)
        if not characters or made.to_json() != content:  # what it says elsewhere counts too, for other programs
            raise UserError("this tokenizer.json is not one that fledge made", "make one with 'fledge tokenizer train'")
        return made
