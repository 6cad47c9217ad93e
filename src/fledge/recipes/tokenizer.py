"""Train a tokenizer, split a text with it, compare it with GPT-2's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fledge.core.errors import UserError
from fledge.core.formatting import short_path
from fledge.core.progress import notice
from fledge.text.inputs import ReadOptions
from fledge.text.source_text import SourceText, open_sources
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import Tokenizer, load_tokenizer, save_tokenizer
from fledge.tokenizers.config import PRETRAINED, TokenizerConfig
from fledge.tokenizers.create import create_tokenizer, default_gpt2_folders
from fledge.tokenizers.report import compare_tokenizers


@dataclass(frozen=True)
class TrainedTokenizer:
    file: str
    kind: str
    vocab_size: int


@dataclass(frozen=True)
class TokenizedText:
    ids: list[int]
    tokens: list[str]  # decoded one by one: '�' where a token holds part of a character
    token_bytes: list[bytes]


@dataclass(frozen=True)
class TokenizerComparison:
    tokenizers: dict[str, dict[str, Any]]  # name → figures, see tokenizers/report.py
    note: str | None  # why GPT-2's is missing


def train_tokenizer(
    sources: Sequence[str],
    out: Path,
    config: TokenizerConfig,
    *,
    field: str = "text",
    gpt2_folder: Path | None = None,
    from_scratch: bool = False,
) -> TrainedTokenizer:
    """Train the tokenizer that `config` describes on the text of `sources`, and save it as the new file `out`.

    `field` holds the text in jsonl and parquet. `from_scratch` trains BPE with the readable Python implementation.
    """
    if out.exists():
        raise UserError(f"'{out}' already exists", "choose another --out, or remove it first")
    if from_scratch and config.kind != "bpe":
        raise UserError(f"--from-scratch is for --kind bpe, not {config.kind}", "leave out --from-scratch")
    if config.kind in PRETRAINED and sources:
        raise UserError(f"the tokenizer {config.kind} is already trained", "leave out the sources")
    text = open_text(sources, field) if sources else None
    folders = [gpt2_folder] if gpt2_folder else []
    tokenizer = create_tokenizer(config, text, folders, from_scratch=from_scratch)
    save_tokenizer(tokenizer, out)
    return TrainedTokenizer(str(out), tokenizer.kind, tokenizer.vocab_size)


def open_text(sources: Sequence[str], field: str) -> SourceText:
    """The text of the sources; says what was skipped or guessed, if anything was."""
    text = open_sources(sources, ReadOptions(field))
    if text.files.skipped or text.files.encodings:
        notice(f"text: {text.files.line()}")
    for line in text.files.advice():
        notice(line)
    return text


def tokenize(file: Path, text: str) -> TokenizedText:
    """Split `text` with the tokenizer of `file`."""
    tokenizer = load_tokenizer(file)
    ids = tokenizer.encode(text).tolist()
    return TokenizedText(ids, [tokenizer.decode([i]) for i in ids], [tokenizer.id_to_bytes(i) for i in ids])


def compare_with_gpt2(
    file: Path, sources: Sequence[str], *, field: str = "text", gpt2_folder: Path | None = None
) -> TokenizerComparison:
    """Measure how well the tokenizer of `file` compresses the text of `sources`, next to GPT-2's if its files exist."""
    tokenizers: dict[str, Tokenizer] = {short_path(file): load_tokenizer(file)}
    note = None
    try:
        tokenizers["GPT-2"] = gpt2.load_gpt2([*([gpt2_folder] if gpt2_folder else []), *default_gpt2_folders()])
    except UserError as error:
        if gpt2_folder:
            raise
        note = f"not compared with GPT-2: {error.message}; {error.hint}"
    text = open_text(sources, field)
    return TokenizerComparison(compare_tokenizers(tokenizers, (chunk.text for chunk in text.chunks())), note)
