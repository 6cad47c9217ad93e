"""Tokenizers through libraries: byte-level BPE made for speed, and any Hugging Face `tokenizer.json`.

Text is bytes; frequent neighbours are merged, again and again, until the vocabulary is full. Every text can be
encoded, in any language, as a single byte is always a token. Reading how this works: bpe.py.

`tokenizers` is the judge of what is right; turbo.py gives the same in a fraction of the time, where it can.
"""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core import fast_json
from fledge.tokenizers import byte_level, gigatoken
from fledge.tokenizers.byte_level import (
    ALPHABET,
    UNICODE_TO_BYTE,
    bytes_to_token,
    replace_surrogates,
    split_long_runs,
    to_utf8,
)
from fledge.tokenizers.hf_json import unknown_id_error
from fledge.tokenizers.token_bytes import TokenBytes, read_token_bytes, vocab_size_of
from tokenizers import Tokenizer, models, trainers

# How the files of well-known models call the token after a document.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|im_end|>")


class HFTokenizer:
    kind = "bpe"

    def __init__(self, content: dict[str, Any]) -> None:
        """`content` of a tokenizer.json."""
        self._library = Tokenizer.from_str(fast_json.dumps(content).decode())
        self._library.no_truncation()  # such files can hold a length to cut at, and one to fill up to
        self._library.no_padding()
        self._library.encode_special_tokens = True  # a text that spells "<|endoftext|>" is text, not an end
        self._vocab_size = vocab_size_of(self._library)
        specials = [token["content"] for token in content["added_tokens"] if token["special"]]
        names = sorted(set(specials) - {content["model"].get("unk_token")})
        unknown = content["model"].get("unk_id")  # text may well be unknown, and is then this one
        self._never = {i for i in map(self._library.token_to_id, names) if i != unknown}
        self._spelled = re.compile("|".join(map(re.escape, names)))
        alone = specials[0] if len(specials) == 1 else None
        self.special = next((name for name in ENDS if name in specials), alone)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special: str | None = None,
        *,
        pattern: str = "gpt2",
        exact: bool = True,
    ) -> "HFTokenizer":
        """A vocabulary of `vocab_size`: the special token, every byte, and merges. With `exact`, a text too poor for
        that many is refused; without, the vocabulary is as large as the text allows."""
        byte_level.check_vocab_size(vocab_size, bool(special))
        if pattern == "gpt2" and gigatoken.trainer_available():
            with gigatoken.Spool(texts) as spool:
                merges = gigatoken.learn(spool, vocab_size - byte_level.BYTES - bool(special))
                made = (
                    train_in_process(spool, vocab_size, special, pattern) if merges is None else joined(merges, special)
                )
        else:
            made = train_in_process(texts, vocab_size, special, pattern)
        if exact and made.vocab_size < vocab_size:
            raise byte_level.vocab_too_large(vocab_size, made.vocab_size)
        return made

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, so that every id has its place even where some have no token."""
        return self._vocab_size

    @cached_property
    def _spelling(self) -> TokenBytes:
        return read_token_bytes(self.to_json(), self._library, self._vocab_size)

    @property
    def end_of_text(self) -> int | None:
        return self._library.token_to_id(self.special) if self.special else None

    @cached_property
    def _turbo(self) -> gigatoken.Encode | None:
        return gigatoken.fast_encoder(self.to_json(), self._reference)

    def _reference(self, text: str) -> list[int]:
        ids = self._library.encode(text, add_special_tokens=False).ids
        return ids if self._never.isdisjoint(ids) else self._apart(text)

    def _apart(self, text: str) -> list[int]:
        """Models of pieces and of words know special tokens by their letters; where a text spells one, it is encoded
        in two parts, cut behind the first letter."""
        cuts = [0, *(found.start() + 1 for found in self._spelled.finditer(text)), len(text)]
        parts = (self._library.encode(text[a:b], add_special_tokens=False).ids for a, b in pairwise(cuts))
        return [i for ids in parts for i in ids if i not in self._never]

    def encode(self, text: str) -> NDArray[np.uint32]:
        """What spells a special token is text like any other. A lone surrogate is read as '�'."""
        if self._turbo:
            return self._turbo(to_utf8(text))
        return np.array(self._reference(replace_surrogates(text)), dtype=np.uint32)

    def encode_batch(self, texts: Iterable[str]) -> list[NDArray[np.uint32]]:
        if self._turbo:
            return [self.encode(text) for text in texts]
        texts = [replace_surrogates(text) for text in texts]
        batch = [encoding.ids for encoding in self._library.encode_batch_fast(texts, add_special_tokens=False)]
        apart = (
            ids if self._never.isdisjoint(ids) else self._apart(text) for text, ids in zip(texts, batch, strict=True)
        )
        return [np.array(ids, dtype=np.uint32) for ids in apart]

    def decode(self, ids: Iterable[int]) -> str:
        ids = [int(i) for i in ids]
        said = b"".join(map(self.id_to_bytes, ids))
        if not self._spelling.exact:
            return self._library.decode(ids)
        return said.removeprefix(b" " * self._spelling.drops_space).decode("utf-8", "replace")

    def id_to_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise unknown_id_error(token, self.vocab_size)
        return self._spelling.pieces[token]

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = fast_json.loads(self._written)
        return content

    @cached_property
    def _written(self) -> str:
        return self._library.to_str()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "HFTokenizer":
        return cls(content)


def train_in_process(texts: Iterable[str], vocab_size: int, special: str | None, pattern: str) -> HFTokenizer:
    """Through `tokenizers`."""
    library = Tokenizer(models.BPE())
    shape = Tokenizer.from_str(json.dumps(byte_level.bpe_json({}, [], None, pattern)))
    library.pre_tokenizer, library.decoder = shape.pre_tokenizer, shape.decoder
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=sorted(UNICODE_TO_BYTE),
        special_tokens=[special] if special else [],
    )
    library.train_from_iterator(split_long_runs(texts), trainer)
    return HFTokenizer(json.loads(library.to_str()))


def joined(merges: list[tuple[bytes, bytes]], special: str | None) -> HFTokenizer:
    """A tokenizer from its merges alone: what they make are the tokens after the bytes."""
    names = [special] * bool(special) + [bytes_to_token(piece) for piece in (*ALPHABET, *(a + b for a, b in merges))]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(filter(None, names)))}
    last_first = dict.fromkeys((bytes_to_token(a), bytes_to_token(b)) for a, b in reversed(merges))
    return HFTokenizer(byte_level.bpe_json(vocabulary, reversed(last_first), special, "gpt2"))
