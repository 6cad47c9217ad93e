"""The vocabulary of a tokenizer as a table, with search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fledge.tokenizers.base import Tokenizer

Parts = Mapping[int, tuple[int, int, int]]  # id → left, right, rank of the merge that makes it


@dataclass(frozen=True)
class VocabularyEntry:
    id: int
    text: str  # decoded alone: '�' where it holds a part of a character; the name of a special token
    bytes: str  # hexadecimal; empty for special tokens
    special: bool
    left: str | None  # the texts of the two tokens that a merge joins to this one
    right: str | None
    rank: int | None  # of that merge; 0 was learned first


def list_vocabulary(tokenizer: Tokenizer, content: Mapping[str, Any], parts: Parts) -> list[VocabularyEntry]:
    """All tokens by id. `content` is the tokenizer.json, `parts` come from a MergeTable."""
    names = {token["id"]: token["content"] for token in content["added_tokens"] if token["special"]}
    contents = [tokenizer.id_to_bytes(i) for i in range(tokenizer.vocab_size)]
    texts = [names.get(i, token.decode("utf-8", "replace")) for i, token in enumerate(contents)]

    def entry(i: int) -> VocabularyEntry:
        left, right, rank = parts.get(i, (None, None, None))
        pair = (None if left is None else texts[left], None if right is None else texts[right])
        return VocabularyEntry(i, texts[i], contents[i].hex(), i in names, *pair, rank)

    return [entry(i) for i in range(tokenizer.vocab_size)]


def search_vocabulary(entries: Sequence[VocabularyEntry], search: str) -> list[VocabularyEntry]:
    """The tokens whose text contains `search`, in any case, those equal to it first; also the id, if it is a number."""
    if not search:
        return list(entries)
    folded = search.casefold()
    found = [entry for entry in entries if folded in entry.text.casefold() or search == str(entry.id)]
    return sorted(found, key=lambda entry: (search not in (entry.text, str(entry.id)), entry.id))
