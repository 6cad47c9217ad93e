"""Settings → a tokenizer: trained, loaded, or GPT-2's own. What every verb that needs one stands on."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, human_bytes, user_path
from fledge.core.progress import notice, progress
from fledge.text import download
from fledge.text.inputs import Chunk
from fledge.text.source_text import SourceText
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import END_OF_TEXT, Tokenizer, load_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.hf import HFTokenizer


def make_tokenizer(reading: SourceText | None, config: TokenizerConfig, gpt2_folders: Sequence[Path] = ()) -> Tokenizer:
    if config.file:
        return load_tokenizer(user_path(config.file))
    if config.kind == "gpt2":
        return gpt2.load_gpt2([*gpt2_folders, *default_gpt2_folders()], download_gpt2_file)
    assert reading is not None, "a tokenizer is made from text"
    special = END_OF_TEXT if config.end_of_text else None
    if config.kind == "char":
        return CharTokenizer.train(document_texts(reading.chunks()), config.vocab_size, config.unknown, special)
    size, exact = config.size, config.vocab_size is not None
    return HFTokenizer.train(training_texts(reading, config), size, special, pattern=config.pattern, exact=exact)


def document_texts(chunks: Iterable[Chunk]) -> Iterator[str]:
    return (chunk.text for chunk in progress(chunks, "learning the tokens"))


def training_texts(reading: SourceText, config: TokenizerConfig) -> Iterator[str]:
    """As much text as the settings let it learn from."""
    limit = config.learn_from * 1_000_000
    if reading.size > limit:
        notice(f"the tokenizer learns from {human_bytes(limit)} of {human_bytes(reading.size)}, spread over all of it")
    return document_texts(reading.sample(limit))


def pretrained_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """The one that the settings name, if they name one: a text would be needed to train another."""
    return make_tokenizer(None, config) if config.file or config.kind == "gpt2" else None


def default_gpt2_folders() -> list[Path]:
    """Where GPT-2's files may be already: our own downloads, and tiktoken's cache."""
    told = [os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    usual = Path(tempfile.gettempdir()) / "data-gym-cache"
    return [gpt2_download_dir(), *(Path(folder) for folder in told if folder), usual]


def download_gpt2_file(name: str, url: str, sha256: str) -> Path:
    try:
        return download.fetch(url, gpt2_download_dir() / name, download.ExpectedFile(sha256=sha256))
    except UserError as error:
        hint = f"check the network; or put {' and '.join(gpt2.SHA256)} into '{gpt2_download_dir()}'"
        raise UserError(error.message, hint) from None


def gpt2_download_dir() -> Path:
    return cache_dir() / "downloads" / "gpt2"
