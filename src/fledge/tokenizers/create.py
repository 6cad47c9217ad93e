"""Settings → a tokenizer: trained, loaded, or GPT-2's own. What every verb that needs one stands on."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, human_bytes, user_path
from fledge.core.progress import notice, progress
from fledge.text import download
from fledge.text.formats import Chunk
from fledge.text.source_text import SourceText
from fledge.tokenizers import base as tokenizers
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.hf import HFTokenizer


def make_tokenizer(reading: SourceText | None, config: TokenizerConfig, gpt2_folders: Sequence[Path] = ()) -> Tokenizer:
    if config.file:
        return tokenizers.load(user_path(config.file))
    if config.kind == "gpt2":
        return gpt2.load_gpt2([*gpt2_folders, *usual_gpt2_folders()], fetch)
    assert reading is not None, "a tokenizer is made from text"
    special = tokenizers.END_OF_TEXT if config.end_of_text else None
    if config.kind == "char":
        return CharTokenizer.train(texts(reading.chunks()), config.vocab_size, config.unknown, special)
    size, exact = config.size, config.vocab_size is not None
    return HFTokenizer.train(sampled(reading, config), size, special, pattern=config.pattern, exact=exact)


def texts(chunks: Iterable[Chunk]) -> Iterator[str]:
    return (chunk.text for chunk in progress(chunks, "learning the tokens"))


def sampled(reading: SourceText, config: TokenizerConfig) -> Iterator[str]:
    """As much text as the settings let it learn from."""
    limit = config.learn_from * 1_000_000
    if reading.size > limit:
        notice(f"the tokenizer learns from {human_bytes(limit)} of {human_bytes(reading.size)}, spread over all of it")
    return texts(reading.sample(limit))


def named_tokenizer(config: TokenizerConfig) -> Tokenizer | None:
    """The one that the settings name, if they name one: a text would be needed to train another."""
    return make_tokenizer(None, config) if config.file or config.kind == "gpt2" else None


def usual_gpt2_folders() -> list[Path]:
    """Where GPT-2's files may be already: our own downloads, and tiktoken's cache."""
    told = [os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    usual = Path(tempfile.gettempdir()) / "data-gym-cache"
    return [downloads(), *(Path(folder) for folder in told if folder), usual]


def fetch(name: str, url: str, sha256: str) -> Path:
    try:
        return download.fetch(url, downloads() / name, download.ExpectedFile(sha256=sha256))
    except UserError as error:
        hint = f"check the network; or put {' and '.join(gpt2.SHA256)} into '{downloads()}'"
        raise UserError(error.message, hint) from None


def downloads() -> Path:
    return cache_dir() / "downloads" / "gpt2"
