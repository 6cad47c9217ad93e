"""fledge prepare: text → a dataset of token shards.

sources → reading → tokenizer → preview and estimate → parts, encoded by several processes → dataset.json
"""

import argparse
import contextlib
import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fledge.cli.output import report
from fledge.cluster.prepare import ray_executor
from fledge.core.config import Layer, read_overrides
from fledge.core.config import build as build_settings
from fledge.core.errors import UserError
from fledge.core.files import cache_dir, human_bytes, new_folders, user_path
from fledge.core.formatting import counted, fit_cells, printable, shorten
from fledge.core.progress import byte_progress, notice, progress
from fledge.datasets import executors, remote, shards
from fledge.datasets.build import BuildPlan, BuildSpec, DatasetBusy, build
from fledge.datasets.config import DataConfig
from fledge.datasets.executors import Executor
from fledge.datasets.foreign import open_dataset_or_bin
from fledge.datasets.plan import digest
from fledge.datasets.shards import Dataset
from fledge.datasets.storage import open_storage
from fledge.recipes.tokenizer import readable
from fledge.text import sources
from fledge.text.inputs import ReadOptions, is_url
from fledge.text.source_text import SourceText, open_sources
from fledge.tokenizers import base as tokenizers
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import make_tokenizer, named_tokenizer

PREVIEWED = 3  # documents
SHOWN = 12  # tokens of each
NAME, TOKENS = 28, 68  # cells of the screen
PROBE = 16 << 20  # bytes of text that the estimate is made from
NOT_TEXT = ("path", "stride", "corpus")  # settings of [data] that leave the dataset as it is
PACKED = 3  # times larger than stored is text that was compressed, as a guess
HELD_OUT = {"document": "whole documents", "tail": "the end of each document"}
MET = {
    "empty": ("empty document, left out", "empty documents, left out"),
    "replaced": ("byte that was not UTF-8, now '�'", "bytes that were not UTF-8, now '�'"),
    "nul": ("NUL character, kept", "NUL characters, kept"),
    "surrogates": ("half of a character, now '�'", "halves of characters, now '�'"),
}
Check = Callable[[Dataset], object]


@dataclass(frozen=True)
class PrepareSettings:
    data: DataConfig
    tokenizer: TokenizerConfig


def run(args: argparse.Namespace) -> None:
    overrides = read_overrides(args.overrides)
    refuse_idle(overrides)
    settings = build_settings(PrepareSettings, overrides)
    tokenizer = with_tokenizer(settings.tokenizer, args.tokenizer)
    begun = time.perf_counter()
    with ray_if_asked(args) as ray:
        order = build_spec(args.sources, settings.data, tokenizer, args.out)
        workers = executors.worker_count(args.workers, order.reading.size)
        if not build(order, ray or executors.local_executor(workers), byte_progress, partial(preview, workers=workers)):
            notice(f"'{args.out}' holds this very dataset already: nothing was done")
    facts = summary(args.out)
    report(facts, as_json=args.json, text=in_words(facts, time.perf_counter() - begun))


def with_tokenizer(config: TokenizerConfig, named: str | None) -> TokenizerConfig:
    """`named` is a kind of tokenizer, or a file."""
    if named is None:
        return config
    kinds = get_args(get_type_hints(TokenizerConfig)["kind"])
    return replace(config, kind=named) if named in kinds else replace(config, file=named)  # type: ignore[arg-type]


def refuse_idle(overrides: Layer) -> None:
    """Settings that would be passed over in silence."""
    for name in NOT_TEXT:
        if name in overrides.get("data", {}):
            raise UserError(f"data.{name} plays no role here", "leave it out: it is for 'fledge train'")


def ray_if_asked(args: argparse.Namespace) -> contextlib.AbstractContextManager[Executor | None]:
    """A cluster that is not there is refused before any text is looked at."""
    if args.engine == "ray":
        return ray_executor(args.address, args.workers)
    if args.address:
        raise UserError("--address is a Ray cluster's", "add --engine ray, or leave it out")
    return contextlib.nullcontext()


def build_spec(named: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig, out: str) -> BuildSpec:
    """Finds the text, and says what is to be made of it. Nothing is read but its beginning."""
    facts, key = dataset_key(named, data, tokenizer)
    options = ReadOptions(data.field, unescaped(data.separator), "", data.errors)
    reading = open_sources(named, options, globs(data.include), globs(data.exclude))
    place = out if is_url(out) else str(user_path(out).absolute())
    refuse_inside(place, named)
    return BuildSpec(reading, data, lambda: make_tokenizer(reading, tokenizer), key, facts, place)


def refuse_inside(out: str, named: Sequence[str]) -> None:
    """A dataset in the folder that it is made of would be text of that folder the next time."""
    for source in named:
        folder, target = user_path(sources.split_weight(source)[0]).resolve(), Path(out).resolve()
        if folder in target.parents and folder.is_dir() and not sources.is_hidden(target.relative_to(folder).parts):
            raise UserError(f"'{out}' lies inside the text in '{source}'", "choose an --out outside of that folder")


def dataset_key(named: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig) -> tuple[str, str]:
    """What is known of the text without reading it, and a key for all that a dataset depends on."""
    facts = sources.source_fingerprint(named)
    content = tokenizers.fingerprint(tokenizers.load(user_path(tokenizer.file))) if tokenizer.file else ""
    chosen = {name: value for name, value in asdict(data).items() if name not in NOT_TEXT}
    return facts, digest(facts, chosen, {**asdict(tokenizer), "file": content})


def globs(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def unescaped(separator: str) -> str:
    r"""`\n`, `\r` and `\t` as people write them on a command line."""
    return separator.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")


def ensure_dataset(data: DataConfig, tokenizer: TokenizerConfig, check: Check = lambda _: None) -> Dataset:
    """The dataset that a run asks for: opened where it is there, prepared first where it is not."""
    if data.path is not None:
        return open_dataset_at(data.path, lambda: named_tokenizer(tokenizer))
    folder = cached(data, tokenizer)
    if (folder / shards.MANIFEST).exists():
        try:
            return shards.open_dataset(folder)
        except UserError as error:  # ours to mend: it is only a cache
            notice(f"warning: {error.message}; it is prepared anew")
            shutil.rmtree(folder)
    notice(f"preparing '{data.corpus}' first: text → tokens, kept in {folder}")
    order = build_spec([data.corpus], data, tokenizer, str(folder))
    while True:
        try:
            return build_dataset(order, check)
        except DatasetBusy:
            time.sleep(0.2)  # another process makes it, and we shall find it made


def cached(data: DataConfig, tokenizer: TokenizerConfig) -> Path:
    """Where the dataset of a corpus lies once it is made."""
    _, key = dataset_key([data.corpus], data, tokenizer)
    name = re.sub(r"[^\w.-]+", "-", Path(data.corpus).stem)[:60]  # of an address, notice
    return cache_dir() / "datasets" / f"{name}-{key[:12]}"


def open_dataset_at(name: str, given: Callable[[], Tokenizer | None]) -> Dataset:
    """A dataset in a folder or at a URL, ours or another program's, whose tokenizer must be `given`."""
    folder = remote.fetch(name, lambda files: progress(files, "fetching")) if is_url(name) else user_path(name)
    return open_dataset_or_bin(folder, given)


def prepare(
    named: Sequence[str], tokenizer: TokenizerConfig, data: DataConfig, out: Path, check: Check = lambda _: None
) -> Dataset:
    return build_dataset(build_spec(named, data, tokenizer, str(out)), check)


def build_dataset(order: BuildSpec, check: Check) -> Dataset:
    """A dataset in a folder. One that `check` refuses does not stay."""
    out = Path(order.out)
    with new_folders(out.parent):
        workers = executors.worker_count(None, order.reading.size)
        build(order, executors.local_executor(workers), byte_progress, lambda _: None)
        dataset = shards.open_dataset(out)
        try:
            check(dataset)
        except BaseException:
            shutil.rmtree(out)
            raise
    return dataset


# What a person sees before and after


def preview(ahead: BuildPlan, workers: int) -> None:
    """The first documents as tokens; and what all of it will come to, measured on some megabytes of this text."""
    reading, tokenizer, data = ahead.order.reading, ahead.tokenizer, ahead.order.data
    held_out = HELD_OUT[ahead.by] if data.val or data.test else "nothing"
    notice(f"{counted(len(reading.inputs), 'file')}, {human_bytes(reading.size)}; held out: {held_out}")
    taken = tokens = shown = 0
    clock = [(0, time.perf_counter())]
    for chunk in reading.sample(PROBE):
        ids = tokenizer.encode(chunk.text)
        if chunk.start == 0 and shown < PREVIEWED:
            shown += 1
            name = shorten(printable(chunk.document)[::-1], NAME)[::-1]  # of a long path the end tells more
            notice(f"  {fit_cells(name, NAME)}  {as_tokens(tokenizer, ids.tolist())}")
        taken += chunk.end - chunk.start
        tokens += len(ids) + chunk.last
        clock.append((taken, time.perf_counter()))
        if taken >= PROBE:
            break
    slow, begun = [mark for mark in clock[:-1] if mark[0] <= taken / 2][-1]  # until it has met the usual words
    seconds = (clock[-1][1] - begun) / (taken - slow) * unpacked(reading, ahead.left) / workers
    share = taken / max(1, unpacked(reading, reading.size)) if taken >= PROBE else 1.0
    total = tokens / share * ahead.kept
    disk = total * shards.id_type(tokenizer.vocab_size).itemsize
    notice(f"about {in_short(total)} tokens, {human_bytes(disk)} on disk, {in_time(seconds)} with {workers} at work")
    if ahead.finished:
        notice(f"{ahead.finished} of {counted(ahead.parts, 'part')} are there already")


def as_tokens(tokenizer: Tokenizer, ids: list[int]) -> str:
    words = [f"{readable(tokenizer.bytes_of(i))}·{i}" for i in ids[:SHOWN]] + ["…"] * (len(ids) > SHOWN)
    return shorten(" ".join(words).replace("\n", "⏎").replace("\t", "⇥"), TOKENS)


def unpacked(reading: SourceText, stored: int) -> float:
    """Bytes of text in so many stored ones: what is packed holds about three times as much."""
    packed = sum(each.size or 0 for each in reading.inputs if each.compression != "none" or each.format == "parquet")
    share = packed / max(1, sum(each.size or 0 for each in reading.inputs))
    return stored * (1 + (PACKED - 1) * share)


def in_short(count: float) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"


def in_time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def summary(out: str) -> dict[str, Any]:
    manifest = json.loads(open_storage(out).read(shards.MANIFEST) or b"")
    kept = ("tokens", "documents", "bytes")
    splits = {name: {key: split[key] for key in kept} for name, split in manifest["splits"].items()}
    return {"folder": out, "splits": splits, **{key: manifest[key] for key in ("vocab_size", "read", "dropped")}}


def in_words(facts: dict[str, Any], seconds: float) -> str:
    out = facts["folder"]
    lines = [f"{out}: a vocabulary of {counted(facts['vocab_size'], 'token')}"]
    for name, split in facts["splits"].items():
        if split["tokens"]:
            number, unit = counted(split["documents"], "document").split()
            size = human_bytes(split["bytes"])
            lines.append(f"  {name:<6}{split['tokens']:>14,} tokens  {number:>10} {unit:<9}  {size:>9}")
    lines += [f"  {counted(count, 'document')} left out: {reason}" for reason, count in facts["dropped"].items()]
    lines += [f"  {counted(facts['read'][name], *words)}" for name, words in MET.items() if facts["read"][name]]
    return "\n".join([*lines, f"done in {in_time(seconds)}; next: fledge train demo --data.path {shlex.quote(out)}"])
