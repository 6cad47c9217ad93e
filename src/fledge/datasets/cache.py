"""The dataset of a run: opened where it exists, prepared into the cache first where it does not."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, new_folders, user_path
from fledge.core.progress import byte_progress, notice, progress
from fledge.datasets import executors, remote, shards
from fledge.datasets.build import BuildSpec, DatasetBusy, build
from fledge.datasets.config import DataConfig
from fledge.datasets.external import open_dataset_or_bin
from fledge.datasets.shards import Dataset
from fledge.datasets.spec import build_spec, dataset_key
from fledge.text.inputs import is_url
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import pretrained_tokenizer

BUSY_SECONDS = 0.2  # between two checks of a dataset that another process is building
Check = Callable[[Dataset], object]  # raises UserError where the dataset does not suit


def ensure_dataset(data: DataConfig, tokenizer: TokenizerConfig, check: Check = lambda _: None) -> Dataset:
    """Open `data.path`, or the cached dataset of `data.corpus`, which is built first if it is missing or damaged."""
    if data.path is not None:
        return open_dataset_at(data.path, lambda: pretrained_tokenizer(tokenizer))
    folder = cache_folder(data, tokenizer)
    if (folder / shards.MANIFEST).exists():
        try:
            return shards.open_dataset(folder)
        except UserError as error:
            notice(f"warning: {error.message}; preparing it again")
            shutil.rmtree(folder)
    names = ", ".join(f"'{source}'" for source in data.sources)
    notice(f"preparing {names} first: text → tokens, kept in {folder}")
    spec = build_spec(data.sources, data, tokenizer, str(folder))
    for line in spec.text.files.advice():
        notice(line)
    while True:
        try:
            return build_local(spec, check)
        except DatasetBusy:
            time.sleep(BUSY_SECONDS)


def cache_folder(data: DataConfig, tokenizer: TokenizerConfig) -> Path:
    """The folder in the cache for the dataset of this corpus with these settings."""
    key = dataset_key(data.sources, data, tokenizer)
    name = re.sub(r"[^\w.-]+", "-", Path(data.sources[0]).stem)[:60]  # it may be a URL
    return cache_dir() / "datasets" / f"{name}-{key[:12]}"


def is_prepared(data: DataConfig, tokenizer: TokenizerConfig) -> bool:
    """Whether this corpus is in the cache with these settings."""
    return (cache_folder(data, tokenizer) / shards.MANIFEST).exists()


def open_dataset_at(name: str, tokenizer: Callable[[], Tokenizer | None]) -> Dataset:
    """Open a dataset in a folder or at a URL. `tokenizer` is for nanoGPT's .bin files, which hold none."""
    folder = (
        remote.download_dataset(name, lambda files: progress(files, "downloading")) if is_url(name) else user_path(name)
    )
    return open_dataset_or_bin(folder, tokenizer)


def build_local(spec: BuildSpec, check: Check = lambda _: None) -> Dataset:
    """Build a dataset in a local folder, which is removed again if `check` refuses the dataset."""
    out = Path(spec.out)
    with new_folders(out.parent):
        workers = executors.worker_count(None, spec.text.size)
        build(spec, executors.local_executor(workers), byte_progress, lambda _: None)
        dataset = shards.open_dataset(out)
        try:
            check(dataset)
        except BaseException:
            shutil.rmtree(out)
            raise
    return dataset
