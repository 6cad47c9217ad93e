"""Byte-level BPE one merge at a time, for people who want to see how a text becomes tokens.

    table = MergeTable(tokenizer.to_json())
    table.steps(table.words("the duck"))     # t h e → t he → the, then the next word

A word starts as the ids of its bytes. The adjacent pair that was learned first, the leftmost one, is merged, until no
pair is left. bpe.py computes the same result without the way to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fledge.core import fast_json
from fledge.core.errors import UserError
from fledge.tokenizers.byte_level import UNICODE_TO_BYTE, replace_surrogates, token_to_bytes
from tokenizers import Tokenizer

BYTES = UNICODE_TO_BYTE.keys()  # as the file spells them
NOT_BYTE_LEVEL = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


@dataclass(frozen=True)
class Merge:
    """Two adjacent tokens of a word become one."""

    rank: int  # 0: the pair that was learned first
    word: int
    position: int  # of the left token in its word, before this merge
    token: int  # the id that both become


@dataclass(frozen=True)
class MergeSteps:
    words: list[list[int]]  # the ids that each word starts with: its bytes
    merges: list[Merge]  # in the order in which they are applied

    def after(self, steps: int) -> list[list[int]]:
        """The ids of each word after so many merges."""
        words = [list(word) for word in self.words]
        for merge in self.merges[:steps]:
            words[merge.word][merge.position : merge.position + 2] = [merge.token]
        return words


class MergeTable:
    """The merges of a `tokenizer.json`, and how that file cuts a text into words."""

    def __init__(self, content: dict[str, Any]) -> None:
        if not has_merges(content):
            raise UserError("this tokenizer has no merges: it is not byte-level BPE", "choose one with kind = bpe")
        model = content["model"]
        self._library = Tokenizer.from_str(fast_json.dumps(content).decode())
        self._library.encode_special_tokens = True
        self._library.no_truncation()
        self._library.no_padding()
        self._ids: dict[str, int] = model["vocab"]
        self._whole_words_first = bool(model.get("ignore_merges"))
        pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
        self._rank = {(self._ids[a], self._ids[b]): rank for rank, (a, b) in enumerate(pairs)}
        names = {i: name for name, i in self._ids.items()}
        self._merged = {pair: self._ids[names[pair[0]] + names[pair[1]]] for pair in self._rank}
        self.parts = {self._merged[pair]: (*pair, rank) for pair, rank in self._rank.items()}  # id → left, right, rank

    def words(self, text: str) -> list[str]:
        """The words of a text, in the file's spelling of bytes: merges never cross from one into the next."""
        text = replace_surrogates(text)
        normalized = self._library.normalizer.normalize_str(text) if self._library.normalizer else text
        words = [word for word, _ in self._library.pre_tokenizer.pre_tokenize_str(normalized)]
        ids = [token.id for word in words for token in self._library.model.tokenize(word)]
        if ids != self._library.encode(text, add_special_tokens=False).ids:
            raise UserError("this text holds added tokens, which no merge makes", "try it without them")
        return words

    @staticmethod
    def text(word: str) -> str:
        """A word as people write it."""
        return token_to_bytes(word).decode("utf-8", "replace")

    def steps(self, words: Sequence[str]) -> MergeSteps:
        """The merges of all the words, lowest rank first."""
        start = [self._start(word) for word in words]
        ids, merges = [list(word) for word in start], []
        while found := self._lowest(ids):
            rank, word, position = found
            token = self._merged[ids[word][position], ids[word][position + 1]]
            ids[word][position : position + 2] = [token]
            merges.append(Merge(rank, word, position, token))
        return MergeSteps(start, merges)

    def _start(self, word: str) -> list[int]:
        if self._whole_words_first and word in self._ids:
            return [self._ids[word]]
        return [self._ids[byte] for byte in word]

    def _lowest(self, words: list[list[int]]) -> tuple[int, int, int] | None:
        """Rank, word and position of the next merge."""
        candidates = (
            (self._rank[pair], number, position)
            for number, word in enumerate(words)
            for position, pair in enumerate(pairwise(word))
            if pair in self._rank
        )
        return min(candidates, default=None)


def has_merges(content: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` is byte-level BPE."""
    model, splitter = content["model"], content.get("pre_tokenizer") or {}
    steps = splitter.get("pretokenizers", [splitter])
    is_byte_level = any(step.get("type") == "ByteLevel" for step in steps)
    special_settings = any(model.get(name) for name in NOT_BYTE_LEVEL)
    return model["type"] == "BPE" and is_byte_level and not special_settings and model["vocab"].keys() >= BYTES
