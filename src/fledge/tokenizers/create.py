"""[tokenizer] settings and text → a tokenizer: trained, loaded from a file, or GPT-2's."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, human_bytes, user_path
from fledge.core.progress import byte_progress, notice
from fledge.downloads import http
from fledge.text.inputs import Chunk
from fledge.text.source_text import SourceText
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import END_OF_TEXT, Tokenizer, load_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import PRETRAINED, TokenizerConfig
from fledge.tokenizers.hf import HFTokenizer


def create_tokenizer(
    config: TokenizerConfig, text: SourceText | None, gpt2_folders: Sequence[Path] = (), *, from_scratch: bool = False
) -> Tokenizer:
    """Load the tokenizer that `config` names, or train one on `text`; BPE `from_scratch` in plain Python."""
    if pretrained := pretrained_tokenizer(config, gpt2_folders):
        return pretrained
    if text is None:
        raise UserError("there is no text to train a tokenizer on", "give a file, a folder or a named corpus")
    special = END_OF_TEXT if config.end_of_text else None
    if config.kind == "char":
        return CharTokenizer.train(chunk_texts(text.chunks(), text.size), config.vocab_size, config.unknown, special)
    bpe: type[BpeTokenizer] | type[HFTokenizer] = BpeTokenizer if from_scratch else HFTokenizer
    exact = config.vocab_size is not None
    return bpe.train(training_texts(text, config), config.size, special, pattern=config.pattern, exact=exact)


def pretrained_tokenizer(config: TokenizerConfig, gpt2_folders: Sequence[Path] = ()) -> Tokenizer | None:
    """The tokenizer that needs no text: a file, or GPT-2's; None if one has to be trained."""
    if config.file:
        return load_tokenizer(user_path(config.file))
    return openai_tokenizer(config.kind, gpt2_folders) if config.kind in PRETRAINED else None


def openai_tokenizer(kind: str, gpt2_folders: Sequence[Path] = ()) -> HFTokenizer:
    """A kind of `PRETRAINED`, from GPT-2's files, which are downloaded if necessary."""
    folders = [*gpt2_folders, *default_gpt2_folders()]
    return gpt2.load_gpt2(folders, download_gpt2_file, space_runs=kind == "p50k")


def training_texts(text: SourceText, config: TokenizerConfig) -> Iterator[str]:
    """At most `learn_from` megabytes, sampled evenly from the whole text."""
    limit = config.learn_from * 1_000_000
    if text.size > limit:
        notice(f"the tokenizer is trained on {human_bytes(limit)} of {human_bytes(text.size)}, sampled from the whole")
    return chunk_texts(text.sample(limit), min(limit, text.size))


def chunk_texts(chunks: Iterable[Chunk], size: int) -> Iterator[str]:
    with byte_progress("training the tokenizer", size) as advance:
        for chunk in chunks:
            yield chunk.text
            advance(chunk.end - chunk.start)


def default_gpt2_folders() -> list[Path]:
    """Where GPT-2's files may already be: fledge's downloads and tiktoken's cache."""
    named = [os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    temporary = Path(tempfile.gettempdir()) / "data-gym-cache"
    return [gpt2_download_dir(), *(Path(folder) for folder in named if folder), temporary]


def download_gpt2_file(name: str, url: str, sha256: str) -> Path:
    try:
        return http.fetch(url, gpt2_download_dir() / name, http.ExpectedFile(sha256=sha256))
    except UserError as error:
        hint = f"check the network, or copy {' and '.join(gpt2.SHA256)} to '{gpt2_download_dir()}'"
        raise UserError(error.message, hint) from None


def gpt2_download_dir() -> Path:
    return cache_dir() / "downloads" / "gpt2"
