"""What a forecast needs to know of a text: tokens, their mean length in bytes, and the vocabulary.

Counted if the dataset exists, or if its text is small and local; otherwise estimated. Nothing is downloaded.
"""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

from fledge.core.files import user_path
from fledge.datasets.cache import ensure_dataset, is_prepared
from fledge.datasets.config import DataConfig
from fledge.datasets.shards import Dataset
from fledge.datasets.splits import default_val
from fledge.settings.scaling_rules import known_vocabulary
from fledge.text.corpora import CORPORA
from fledge.text.inputs import is_url
from fledge.text.source_text import COMPRESSION
from fledge.text.sources import evenly_spaced, split_weight
from fledge.training.config import Settings

MAX_PREPARED_BYTES = 64 << 20  # of a local text; preparing more would take too long for a forecast
SAMPLED_FILES, SAMPLED_BYTES = 16, 1 << 16  # bytes of each, to see how many a character has
MIN_UTF8_SHARE = 0.9  # of the sampled bytes: less is another encoding, or no text


@dataclass(frozen=True)
class CorpusStats:
    vocab_size: int
    train_tokens: int
    val_tokens: int
    bytes_per_token: float  # of the validation split, where its length is known
    dataset: Dataset | None = None  # None: all numbers are estimates


def read_corpus_stats(settings: Settings, max_bytes: float = MAX_PREPARED_BYTES) -> CorpusStats:
    """Statistics of the text of these settings; a local text of at most so many bytes is prepared for it."""
    data, tokenizer = settings.data, settings.tokenizer
    held_out = [source for own in data.held_out_sources().values() for source in own]
    if any(map(is_url, (data.path,) if data.path else (*data.sources, *held_out))):
        return estimated_stats(settings, 0)
    if data.path is not None:
        return dataset_stats(settings, ensure_dataset(data, tokenizer))
    weighted = [(share, remote_bytes(source), local_bytes(source)) for source, share in map(split_weight, data.sources)]
    size = int(sum(share * (remote or local) for share, remote, local in weighted))
    remote = any(remote for _, remote, _ in weighted) or any(map(remote_bytes, held_out))
    if (remote or size > max_bytes) and not is_prepared(data, tokenizer):
        return estimated_stats(settings, size)
    return dataset_stats(settings, ensure_dataset(data, tokenizer))


def text_bytes(settings: Settings) -> int:
    """The size of the text of these settings; 0 where it is not known before it is downloaded."""
    if settings.data.path is not None or any(map(is_url, settings.data.sources)):
        return 0
    return int(
        sum(
            share * (embedded_bytes(source) or remote_bytes(source) or local_bytes(source))
            for source, share in map(split_weight, settings.data.sources)
        )
    )


def text_characters(settings: Settings) -> float:
    """About how many characters these are."""
    return text_bytes(settings) / bytes_per_character(settings.data)


def embedded_bytes(source: str) -> int:
    """Bytes of a named corpus that is on every machine; 0 for any other source."""
    corpus = None if user_path(source).exists() else CORPORA.get(source)
    return 0 if corpus is None or corpus.network else corpus.size


def remote_bytes(source: str) -> int:
    """Bytes of text in a named corpus that would be downloaded; 0 for any other source."""
    corpus = CORPORA.get(source)
    if corpus is None or not corpus.network or user_path(source).exists():
        return 0
    return corpus.size * (COMPRESSION if corpus.origin.endswith(".parquet") else 1)


def local_bytes(source: str) -> int:
    """Bytes of a file or a folder; 0 where it does not exist, which preparing it will report."""
    return sum(file.stat().st_size for file in local_files(source))


def local_files(source: str) -> list[Path]:
    path = user_path(source)
    return [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]


def bytes_per_character(data: DataConfig) -> float:
    """Of UTF-8, in the middle of some files: 1.0 for English, 1.8 for Russian; 1.0 where it cannot be seen."""
    files = [file for source, _ in map(split_weight, data.sources) for file in local_files(source)]
    chosen = evenly_spaced(min(SAMPLED_FILES, len(files)), len(files))
    found = b"".join(middle_bytes(files[number]) for number in chosen)
    text = found.decode(errors="ignore")
    decoded = len(text.encode())  # bytes
    return decoded / len(text) if decoded > MIN_UTF8_SHARE * len(found) else 1.0


def middle_bytes(file: Path) -> bytes:
    """Nothing of a file that cannot be read, which preparing it will report."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - SAMPLED_BYTES) // 2)
        return opened.read(SAMPLED_BYTES)
    return b""


def dataset_stats(settings: Settings, dataset: Dataset) -> CorpusStats:
    train_tokens, vocab_size = len(dataset.split("train")), dataset.tokenizer.vocab_size
    has_val = "val" in dataset.available_splits
    manifest = dataset.manifest["splits"]["val" if has_val else "train"]
    mean = manifest["bytes"] / manifest["tokens"] if "bytes" in manifest else typical_token_bytes(settings, vocab_size)
    return CorpusStats(
        vocab_size=settings.model.vocab_size or vocab_size,
        train_tokens=train_tokens,
        val_tokens=len(dataset.splits["val"]) if has_val else 0,
        bytes_per_token=mean,
        dataset=dataset,
    )


def estimated_stats(settings: Settings, size: int) -> CorpusStats:
    """Estimates for a text of `size` bytes; 0 means unknown."""
    data, vocab_size = settings.data, known_vocabulary(settings) or settings.tokenizer.size
    mean, val = typical_token_bytes(settings, vocab_size), default_val(size) if data.val is None else data.val
    held_out = size * val
    if own := data.held_out_sources().get("val"):
        val, held_out = 0.0, sum(remote_bytes(source) or local_bytes(source) for source in own)
    return CorpusStats(vocab_size, int(size * (1 - val - data.test) / mean), int(held_out / mean), mean)


def typical_token_bytes(settings: Settings, vocab_size: int) -> float:
    """Mean bytes of a token, as measured on English: 3.0 for a vocabulary of 1,024, 4.7 for GPT-2's; 1 for char."""
    return 1.0 if settings.tokenizer.kind == "char" else 0.3 * math.log2(vocab_size)
