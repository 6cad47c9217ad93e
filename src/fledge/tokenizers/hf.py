"""Tokenizers through the `tokenizers` library: any Hugging Face `tokenizer.json`, and fast training of byte-level BPE.

How byte-level BPE works is shown in bpe.py. The `tokenizers` library is the reference; gigatoken.py encodes much
faster, and is used where it gives the same ids.
"""

import contextlib
import json
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from queue import Full, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core import fast_json
from fledge.core.signals import in_thread
from fledge.tokenizers import byte_level, gigatoken
from fledge.tokenizers.byte_level import UNICODE_TO_BYTE, replace_surrogates, split_long_runs, to_utf8
from fledge.tokenizers.hf_json import end_of_text_name, unknown_id_error
from fledge.tokenizers.token_bytes import TokenBytes, read_token_bytes, vocab_size_of
from tokenizers import Tokenizer, models, trainers

READ_AHEAD = 256  # texts
WORTH_FAST = 20_000  # characters: building the fast encoder takes longer than encoding these


class HFTokenizer:
    kind = "bpe"

    def __init__(self, content: dict[str, Any]) -> None:
        """`content` of a tokenizer.json."""
        self._library = Tokenizer.from_str(fast_json.dumps(content).decode())
        self._encoded = 0  # characters so far
        self._library.no_truncation()  # the file may ask for truncation and padding
        self._library.no_padding()
        self._library.encode_special_tokens = True  # "<|endoftext|>" in a text is plain text
        self._vocab_size = vocab_size_of(self._library)
        specials = [token["content"] for token in content["added_tokens"] if token["special"]]
        names = sorted(set(specials) - {content["model"].get("unk_token")})
        unknown = content["model"].get("unk_id")  # unknown text is encoded as this special token
        self._special_ids = {i for i in map(self._library.token_to_id, names) if i != unknown}
        self._special_names = re.compile("|".join(map(re.escape, names)))
        self.special = end_of_text_name(specials)

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
        """Learn byte-level BPE with a vocabulary of `vocab_size`: the special token, every byte, and merges. If the
        text yields fewer tokens, that is an error, or with `exact=False` a smaller vocabulary."""
        byte_level.check_vocab_size(vocab_size, bool(special))
        library = Tokenizer(models.BPE())
        empty = Tokenizer.from_str(json.dumps(byte_level.bpe_json({}, [], None, pattern)))
        library.pre_tokenizer, library.decoder = empty.pre_tokenizer, empty.decoder
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            initial_alphabet=sorted(UNICODE_TO_BYTE),
            special_tokens=[special] if special else [],
        )
        _train(library, trainer, split_long_runs(texts))
        tokenizer = cls(json.loads(library.to_str()))
        if exact and tokenizer.vocab_size < vocab_size:
            raise byte_level.vocab_too_large(vocab_size, tokenizer.vocab_size)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """The largest id plus one, even if some ids have no token."""
        return self._vocab_size

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return read_token_bytes(self.to_json(), self._library, self._vocab_size)

    @property
    def end_of_text(self) -> int | None:
        return self._library.token_to_id(self.special) if self.special else None

    @cached_property
    def _fast_encode(self) -> gigatoken.Encode | None:
        return gigatoken.fast_encoder(self.to_json(), self._reference_ids)

    def _reference_ids(self, text: str) -> list[int]:
        ids = self._library.encode(text, add_special_tokens=False).ids
        return ids if self._special_ids.isdisjoint(ids) else self._split_special_names(text)

    def _split_special_names(self, text: str) -> list[int]:
        """Unigram and WordPiece models find special tokens in plain text. Where a text contains the name of one, it is
        encoded in two parts, cut after the first letter of the name."""
        cuts = [0, *(match.start() + 1 for match in self._special_names.finditer(text)), len(text)]
        parts = (self._library.encode(text[a:b], add_special_tokens=False).ids for a, b in pairwise(cuts))
        return [i for ids in parts for i in ids if i not in self._special_ids]

    def encode(self, text: str) -> NDArray[np.uint32]:
        """Encode plain text; special tokens in it are not recognized, a lone surrogate becomes '�'."""
        self._encoded += len(text)
        if self._encoded > WORTH_FAST and self._fast_encode:
            return self._fast_encode(to_utf8(text))
        return np.array(self._reference_ids(replace_surrogates(text)), dtype=np.uint32)

    def decode(self, ids: Iterable[int]) -> str:
        ids = [int(i) for i in ids]
        content = b"".join(map(self.id_to_bytes, ids))
        if not self._token_bytes.is_exact:
            return self._library.decode(ids)
        return content.removeprefix(b" " * self._token_bytes.strips_space).decode("utf-8", "replace")

    def id_to_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.vocab_size:
            raise unknown_id_error(token, self.vocab_size)
        return self._token_bytes.bytes_by_id[token]

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = fast_json.loads(self._json)
        return content

    @cached_property
    def _json(self) -> str:
        return self._library.to_str()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "HFTokenizer":
        return cls(content)


def _train(library: Tokenizer, trainer: trainers.BpeTrainer, texts: Iterable[str]) -> None:
    """Texts are read here, and counted and merged in a thread: half a minute for a large text, and Ctrl-C is heard."""
    ahead: Queue[str | None] = Queue(READ_AHEAD)
    training = in_thread(lambda: library.train_from_iterator(iter(ahead.get, None), trainer))

    def hand_over(text: str | None) -> None:
        while not training.done():  # with an error, where texts are left
            with contextlib.suppress(Full):
                ahead.put(text, timeout=1.0)
                return

    try:
        for text in texts:
            hand_over(text)
    finally:
        hand_over(None)
    training.result()
