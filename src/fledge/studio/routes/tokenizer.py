"""Tokenizer: a text split by the tokenizers of the runs, merges one by one, the vocabulary."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from fledge.core.errors import UserError
from fledge.runs.run_folder import HASHES, TOKENIZER, RunFolder
from fledge.runs.summary import runs_and_trials
from fledge.studio.state import Studio, StudioState
from fledge.tokenizers.base import Tokenizer, load_tokenizer
from fledge.tokenizers.create import default_gpt2_folders
from fledge.tokenizers.gpt2 import load_gpt2
from fledge.tokenizers.merges import Merge, MergeTable, has_merges
from fledge.tokenizers.split import TextSplit, TextToken, split_text
from fledge.tokenizers.vocabulary import VocabularyEntry, list_vocabulary, search_vocabulary

router = APIRouter(prefix="/api/tokenizer", tags=["tokenizer"])
GPT2 = "openai:gpt2"  # no run can have this name
MOST_TOKENS = 3000  # that are described one by one
MOST_WORDS = 400  # to choose from, for the merges
BEGINNING = 4000  # characters of a text in which these words are looked for
MOST_BYTES = 160  # of the words whose merges are shown together


@dataclass(frozen=True)
class TokenizerChoice:
    name: str  # for `tokenizer` in the other routes: the newest run that has it, or openai:gpt2
    runs: list[str]  # all runs that have it, newest first
    vocab_size: int


class SplitRequest(BaseModel):
    tokenizer: str
    text: str = Field(max_length=4_000_000)


class MergesRequest(SplitRequest):
    word: int | None = Field(None, ge=0, description="number of a word; without it: the words at the beginning")


@dataclass(frozen=True)
class SplitAnswer(TextSplit):
    kind: str
    merges: bool  # whether /merges can show how its tokens are made


@dataclass(frozen=True)
class MergesAnswer:
    words: list[str]  # at the beginning of the text
    first: int  # number of the first word that is shown
    start: list[list[TextToken]]  # its bytes, and those of the words after it
    merges: list[Merge]  # `word` counts from `first`
    made: dict[int, TextToken]  # the tokens that merges make
    total: int  # merges that the tokenizer knows


@dataclass(frozen=True)
class VocabularyPage:
    total: int
    found: int
    entries: list[VocabularyEntry]


class OpenTokenizer:
    """A tokenizer with what the page asks of it, each part made when it is first needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.content = tokenizer.to_json()
        self.has_merges = has_merges(self.content)

    @cached_property
    def merge_table(self) -> MergeTable:
        return MergeTable(self.content)

    @cached_property
    def vocabulary(self) -> list[VocabularyEntry]:
        parts = self.merge_table.parts if self.has_merges else {}
        return list_vocabulary(self.tokenizer, self.content, parts)

    def describe(self, token: int) -> TextToken:
        content = self.tokenizer.id_to_bytes(token)
        return TextToken(token, content.decode("utf-8", "replace"), content.hex(), 0, "")


@router.get("")
def list_tokenizers(studio: StudioState) -> list[TokenizerChoice]:
    """The tokenizers of the runs, each once, the latest first; then GPT-2's, where its files are on this machine."""
    groups: dict[str, list[tuple[str, RunFolder]]] = {}
    newest_first = [*runs_and_trials(studio.runs)][::-1]
    for name, run in sorted(newest_first, key=lambda pair: "/" in pair[0]):  # trials of sweeps last
        groups.setdefault(tokenizer_hash(run), []).append((name, run))
    return [*filter(None, (describe_group(group) for group in groups.values())), *gpt2_choice()]


def tokenizer_hash(run: RunFolder) -> str:
    """From run.json; a run that is damaged stands alone."""
    try:
        return str(run.metadata()[HASHES][TOKENIZER])
    except (UserError, KeyError, TypeError):
        return str(run.folder)


def describe_group(group: list[tuple[str, RunFolder]]) -> TokenizerChoice | None:
    """None: the run is damaged."""
    name, run = group[0]
    try:
        size = run.model_config().vocab_size
    except UserError:
        return None
    return TokenizerChoice(name, [each for each, _ in group], size or 0)


def gpt2_choice() -> Iterator[TokenizerChoice]:
    try:
        tokenizer = open_gpt2().tokenizer
    except UserError:
        return
    yield TokenizerChoice(GPT2, [], tokenizer.vocab_size)


@functools.lru_cache(maxsize=1)
def open_gpt2() -> OpenTokenizer:
    return OpenTokenizer(load_gpt2(default_gpt2_folders()))


def open_tokenizer(file: Path) -> OpenTokenizer:
    try:
        stat = file.stat()
    except OSError:
        raise UserError(f"'{file}' is missing", "choose another run") from None
    return _open(file, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _open(file: Path, _changed: int, _size: int) -> OpenTokenizer:
    return OpenTokenizer(load_tokenizer(file))


def choose(studio: Studio, name: str) -> OpenTokenizer:
    return open_gpt2() if name == GPT2 else open_tokenizer(studio.open(name).tokenizer_file)


@router.post("/split")
def split(studio: StudioState, request: SplitRequest) -> SplitAnswer:
    """Split a text. The first 3,000 tokens come one by one; the figures count all."""
    opened = choose(studio, request.tokenizer)
    result = split_text(opened.tokenizer, request.text, MOST_TOKENS)
    return SplitAnswer(**vars(result), kind=opened.tokenizer.kind, merges=opened.has_merges)


@router.post("/merges")
def merges(studio: StudioState, request: MergesRequest) -> MergesAnswer:
    """How byte-level BPE makes the tokens of a text: its bytes, and the merges in their order. Of one word, or of the
    first words together."""
    opened = choose(studio, request.tokenizer)
    table = opened.merge_table
    words = table.words(request.text[:BEGINNING])[:MOST_WORDS]
    first = request.word or 0
    if first and first >= len(words):
        raise UserError(f"there is no word {first} in this text", f"it has {len(words)}")
    steps = table.steps(short_words(words[first:] if request.word is None else words[first : first + 1]))
    return MergesAnswer(
        words=[table.text(word) for word in words],
        first=first,
        start=[[opened.describe(i) for i in word] for word in steps.words],
        merges=steps.merges,
        made={merge.token: opened.describe(merge.token) for merge in steps.merges},
        total=len(table.parts),
    )


def short_words(words: list[str]) -> list[str]:
    """As many as have MOST_BYTES together, and at least a part of the first."""
    shown: list[str] = []
    for word in words:
        if shown and sum(map(len, shown)) + len(word) > MOST_BYTES:
            break
        shown.append(word[:MOST_BYTES])
    return shown


@router.get("/vocabulary")
def vocabulary(
    studio: StudioState,
    tokenizer: str,
    search: str = "",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> VocabularyPage:
    """The tokens of a vocabulary by id. `search`: only those with this text in them, or with this id."""
    entries = choose(studio, tokenizer).vocabulary
    found = search_vocabulary(entries, search)
    return VocabularyPage(len(entries), len(found), found[offset : offset + limit])
