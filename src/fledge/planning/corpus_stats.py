"""What a plan has to know of a text: how many tokens, of how many bytes each, out of how many kinds.

Read off the dataset where there is one, or where one is made in a moment; otherwise guessed. Nothing is fetched for a
plan.
"""

import math
from dataclasses import dataclass

from fledge.core.files import user_path
from fledge.datasets.cache import cache_folder, ensure_dataset
from fledge.datasets.preview import COMPRESSION
from fledge.datasets.shards import MANIFEST, Dataset
from fledge.settings.pipeline import known_vocabulary
from fledge.text.corpora import CORPORA
from fledge.text.inputs import is_url
from fledge.text.sources import split_weight
from fledge.training.config import Settings

AT_HAND = 64 << 20  # bytes of a local text that are prepared for a plan; more would take longer than a plan should
UNITS = {"MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class CorpusStats:
    vocab_size: int
    train: int  # tokens
    val: int
    bytes_per_token: float
    dataset: Dataset | None = None  # None: all of it is guessed

    @property
    def bytes(self) -> float:
        """Of the text to learn from; 0 where nothing is known."""
        return self.train * self.bytes_per_token


def read_corpus_stats(settings: Settings) -> CorpusStats:
    data, tokenizer = settings.data, settings.tokenizer
    if is_url(data.path or data.corpus):
        return estimated_stats(settings, 0)
    if data.path is not None:
        return counted_stats(settings, ensure_dataset(data, tokenizer))
    source, share = split_weight(data.corpus)
    far, here = remote_stats(source), local_stats(source)
    if (far or here > AT_HAND) and not (cache_folder(data, tokenizer) / MANIFEST).exists():
        return estimated_stats(settings, int(share * (far or here)))
    return counted_stats(settings, ensure_dataset(data, tokenizer))


def remote_stats(source: str) -> int:
    """Bytes of a named corpus that has to be fetched; 0 where it is none."""
    corpus = CORPORA.get(source)
    if corpus is None or not corpus.network or user_path(source).exists():
        return 0
    number, unit = corpus.size.split()
    return int(float(number) * UNITS[unit]) * (COMPRESSION if corpus.origin.endswith(".parquet") else 1)


def local_stats(source: str) -> int:
    """Bytes of a file or a folder; 0 where there is none, and preparing it will say so."""
    path = user_path(source)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def counted_stats(settings: Settings, dataset: Dataset) -> CorpusStats:
    train, val = len(dataset.split("train")), len(dataset.splits["val"]) if "val" in dataset.held else 0
    held = dataset.tokenizer.vocab_size
    manifest = dataset.manifest["splits"]["train"]
    each = manifest["bytes"] / manifest["tokens"] if "bytes" in manifest else usual_bytes(settings, held)
    return CorpusStats(settings.model.vocab_size or held, train, val, each, dataset)


def estimated_stats(settings: Settings, size: int) -> CorpusStats:
    held = known_vocabulary(settings) or settings.tokenizer.size
    each = usual_bytes(settings, held)
    held_out = settings.data.val + settings.data.test
    return CorpusStats(held, int(size * (1 - held_out) / each), int(size * settings.data.val / each), each)


def usual_bytes(settings: Settings, vocab_size: int) -> float:
    """Of English, measured: 3.0 for 1,024 tokens, 4.7 for GPT-2's; a character is one."""
    return 1.0 if settings.tokenizer.kind == "char" else 0.3 * math.log2(vocab_size)
