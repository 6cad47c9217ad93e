"""Text → a dataset of token shards.

sources → tokenizer → preview and estimate → parts, encoded by several processes → dataset.json
"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

from fledge.cluster.prepare import ray_executor
from fledge.core.config import Layer
from fledge.core.config import build as build_config
from fledge.core.errors import UserError
from fledge.core.progress import byte_progress
from fledge.datasets import executors, shards
from fledge.datasets.build import BuildPlan, build
from fledge.datasets.config import TRAINING_ONLY, DataConfig
from fledge.datasets.description import describe_held_out
from fledge.datasets.executors import Executor
from fledge.datasets.preview import Preview, preview
from fledge.datasets.spec import build_spec, with_own_splits
from fledge.datasets.storage import open_storage
from fledge.text.summary import FileSummary
from fledge.tokenizers.config import TokenizerConfig


@dataclass(frozen=True)
class SplitCounts:
    tokens: int
    documents: int
    bytes: int


@dataclass(frozen=True)
class PrepareResult:
    folder: str
    splits: dict[str, SplitCounts]  # train, val, test
    vocab_size: int
    files: FileSummary  # read, skipped, encodings
    held_out: str  # in words
    mixture: list[dict[str, Any]]  # of each source, where they have shares: its share, tokens, and of how many
    read: dict[str, int]  # irregularities in the text: kind → how often
    dropped: dict[str, int]  # documents that the filters left out: reason → how many
    built: bool  # False: the same dataset existed already
    seconds: float


@dataclass(frozen=True)
class PrepareSettings:
    data: DataConfig
    tokenizer: TokenizerConfig


def prepare(
    sources: Sequence[str],
    out: str,
    settings: Layer | None = None,
    *,
    tokenizer: str | None = None,
    workers: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    on_preview: Callable[[Preview], None] | None = None,
) -> PrepareResult:
    """Build the dataset `out`, a folder or s3://…, from files, folders, globs, named corpora or URLs.

    `tokenizer` is a kind (bpe, char, gpt2) or a tokenizer.json. An interrupted build continues where it stopped.
    `on_preview` gets a sample and an estimate before the text is encoded.
    """
    settings, begun = settings or {}, time.perf_counter()
    for name in (*TRAINING_ONLY, "corpus"):
        if name in settings.get("data", {}):
            raise UserError(f"data.{name} has no effect here", "leave it out: it is for 'fledge train'")
    config = build_config(PrepareSettings, settings)
    with open_engine(engine, address, workers) as ray:
        data = with_own_splits(sources, config.data)
        spec = build_spec(sources, data, choose_tokenizer(config.tokenizer, tokenizer), out)
        count = executors.worker_count(workers, spec.text.size)

        def ready(plan: BuildPlan) -> None:
            if on_preview:
                on_preview(preview(plan, count))

        built = build(spec, ray or executors.local_executor(count), byte_progress, ready)
    return result_from_manifest(out, built, time.perf_counter() - begun)


def choose_tokenizer(config: TokenizerConfig, name: str | None) -> TokenizerConfig:
    """`name` is a kind of tokenizer or a file; it replaces that of `config`."""
    return config if name is None else replace(config, **tokenizer_settings(name))  # type: ignore[arg-type]


def tokenizer_settings(name: str) -> dict[str, str]:
    kinds = get_args(get_type_hints(TokenizerConfig)["kind"])
    return {"kind" if name in kinds else "file": name}


def open_engine(
    engine: str, address: str | None, workers: int | None
) -> contextlib.AbstractContextManager[Executor | None]:
    """None means local processes. A Ray cluster that cannot be reached is refused before any text is read."""
    if engine == "ray":
        return ray_executor(address, workers)
    if address:
        raise UserError("--address is the address of a Ray cluster", "add --engine ray, or leave it out")
    return contextlib.nullcontext()


def result_from_manifest(out: str, built: bool, seconds: float) -> PrepareResult:
    manifest = json.loads(open_storage(out).read(shards.MANIFEST) or b"")
    splits = {
        name: SplitCounts(split["tokens"], split["documents"], split["bytes"])
        for name, split in manifest["splits"].items()
    }
    return PrepareResult(
        folder=out,
        splits=splits,
        vocab_size=manifest["vocab_size"],
        files=FileSummary(**manifest["files"]),
        held_out=describe_held_out(manifest),
        mixture=manifest.get("mixture", []),
        read=manifest["read"],
        dropped=manifest["dropped"],
        built=built,
        seconds=seconds,
    )
