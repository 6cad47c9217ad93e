"""fledge prepare: text → a dataset of token shards.

sources → reading → tokenizer → preview and estimate → parts, encoded by several processes → dataset.json
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fledge.base.errors import UserError
from fledge.base.files import cache_dir, human_bytes, new_folders, user_path
from fledge.base.settings import build as build_settings
from fledge.base.settings import read_overrides
from fledge.datasets import engines, remote, shards
from fledge.datasets.build import Ahead, Busy, Order, build
from fledge.datasets.config import DataConfig
from fledge.datasets.engines import Engine
from fledge.datasets.foreign import open_any
from fledge.datasets.place import open_place
from fledge.datasets.plan import digest
from fledge.datasets.shards import Dataset
from fledge.recipes.screen import meter, progress, report, say
from fledge.recipes.tokenizers import make_tokenizer, named_tokenizer
from fledge.text import sources
from fledge.text.inputs import Options, is_url
from fledge.text.reading import Reading, gather
from fledge.tokens import tokenizer as tokenizers
from fledge.tokens.config import TokenizerConfig
from fledge.tokens.tokenizer import Tokenizer
from fledge.track.terminal import printable

PREVIEWED = 3  # documents
SHOWN = 12  # tokens of each
PROBE = 16 << 20  # bytes of text that the estimate is made from
NOT_TEXT = {"path", "stride", "corpus"}  # settings of [data] that leave the dataset as it is
PACKED = 3  # times larger than stored is text that was compressed, as a guess
MET = {
    "empty": "documents of nothing, left out",
    "replaced": "bytes that were not UTF-8, now '�' (--data.errors strict refuses them)",
    "nul": "NUL characters, kept",
    "surrogates": "halves of characters, now '�'",
}
Check = Callable[[Dataset], object]


@dataclass(frozen=True)
class PrepareSettings:
    data: DataConfig
    tokenizer: TokenizerConfig


def run(args: argparse.Namespace) -> None:
    settings = build_settings(PrepareSettings, read_overrides(args.overrides))
    tokenizer = replace(settings.tokenizer, file=args.tokenizer or settings.tokenizer.file)
    begun = time.perf_counter()
    order = order_of(args.sources, settings.data, tokenizer, args.out)
    workers = args.workers or engines.worth(order.reading.size)
    build(order, engine_of(args, order), meter, partial(preview, workers=workers))
    facts = summary(args.out)
    report(facts, as_json=args.json, text=in_words(facts, time.perf_counter() - begun))


def engine_of(args: argparse.Namespace, order: Order) -> Engine:
    if args.engine == "ray":
        return engines.on_ray(args.address)
    if args.address:
        raise UserError("--address is a Ray cluster's", "add --engine ray, or leave it out")
    return engines.local(args.workers, order.reading.size)


def order_of(named: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig, out: str) -> Order:
    """Finds the text, and says what is to be made of it. Nothing is read but its beginning."""
    facts, key = facts_of(named, data, tokenizer)
    options = Options(data.field, unescaped(data.separator), "", data.errors)
    reading = gather(named, options, globs(data.include), globs(data.exclude))
    place = out if is_url(out) else str(user_path(out).absolute())
    refuse_inside(place, named)
    return Order(reading, data, lambda: make_tokenizer(reading, tokenizer), key, facts, place)


def refuse_inside(out: str, named: Sequence[str]) -> None:
    """A dataset in the folder that it is made of would be text of that folder the next time."""
    for source in named:
        folder, target = user_path(sources.weighted(source)[0]).resolve(), Path(out).resolve()
        if folder in target.parents and folder.is_dir() and not sources.hidden(target.relative_to(folder).parts):
            raise UserError(f"'{out}' lies inside the text in '{source}'", "choose an --out outside of that folder")


def facts_of(named: Sequence[str], data: DataConfig, tokenizer: TokenizerConfig) -> tuple[str, str]:
    """What is known of the text without reading it, and a key for all that a dataset depends on."""
    facts = sources.fingerprint(named)
    content = tokenizers.fingerprint(tokenizers.load(user_path(tokenizer.file))) if tokenizer.file else ""
    chosen = {name: value for name, value in asdict(data).items() if name not in NOT_TEXT}
    return facts, digest(facts, chosen, {**asdict(tokenizer), "file": content})


def globs(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def unescaped(separator: str) -> str:
    r"""`\n`, `\r` and `\t` as people write them on a command line."""
    return separator.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t")


def ensure(data: DataConfig, tokenizer: TokenizerConfig, check: Check = lambda _: None) -> Dataset:
    """The dataset that a run asks for: opened where it is there, prepared first where it is not."""
    if data.path is not None:
        return open_named(data.path, tokenizer)
    _, key = facts_of([data.corpus], data, tokenizer)
    folder = cache_dir() / "datasets" / f"{Path(data.corpus).stem}-{key[:12]}"
    if (folder / shards.MANIFEST).exists():
        try:
            return shards.open_dataset(folder)
        except UserError as error:  # ours to mend: it is only a cache
            say(f"warning: {error.message}; it is prepared anew")
            shutil.rmtree(folder)
    say(f"preparing '{data.corpus}' first: text → tokens, kept in {folder}")
    while True:
        try:
            return prepare([data.corpus], tokenizer, data, folder, check)
        except Busy:
            time.sleep(0.2)  # another process makes it, and we shall find it made


def open_named(name: str, tokenizer: TokenizerConfig | None = None) -> Dataset:
    """A dataset in a folder or at a URL, ours or another program's."""
    folder = remote.fetch(name, lambda files: progress(files, "fetching")) if is_url(name) else user_path(name)
    return open_any(folder, lambda: named_tokenizer(tokenizer or TokenizerConfig()))


def prepare(
    named: Sequence[str], tokenizer: TokenizerConfig, data: DataConfig, out: Path, check: Check = lambda _: None
) -> Dataset:
    """A dataset in a folder. One that `check` refuses does not stay."""
    order = order_of(named, data, tokenizer, str(out))
    with new_folders(out.parent):
        build(order, engines.local(None, order.reading.size), meter, lambda _: None)
        dataset = shards.open_dataset(out)
        try:
            check(dataset)
        except BaseException:
            shutil.rmtree(out)
            raise
    return dataset


# What a person sees before and after


def preview(ahead: Ahead, workers: int) -> None:
    """The first documents as tokens; and what all of it will come to, measured on some megabytes of this text."""
    reading, tokenizer = ahead.order.reading, ahead.tokenizer
    say(f"{len(reading.inputs):,} files, {human_bytes(reading.size)}; split by {ahead.by}")
    taken = tokens = shown = 0
    slow, begun = 0, time.perf_counter()  # an encoder is slow until it has met the usual words
    for piece in reading.sample(PROBE):
        if not slow and taken >= PROBE // 2:  # there is more to come, so there is something to measure
            slow, begun = taken, time.perf_counter()
        ids = tokenizer.encode(piece.text)
        if piece.start == 0 and shown < PREVIEWED:
            shown += 1
            say(f"  {printable(piece.document)[-40:]:<40} {as_tokens(tokenizer, ids[:SHOWN].tolist())} …")
        taken += piece.end - piece.start
        tokens += len(ids)
        if taken >= PROBE:
            break
    seconds = (time.perf_counter() - begun) / (taken - slow) * unpacked(reading, ahead.left) / workers
    total = unpacked(reading, reading.size) / taken * tokens
    disk = total * shards.id_type(tokenizer.vocab_size).itemsize
    say(f"about {in_short(total)} tokens, {human_bytes(disk)} on disk, {in_time(seconds)} with {workers} at work")
    if ahead.finished:
        say(f"{ahead.finished} of {ahead.parts} parts are there already")


def as_tokens(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(f"{printable(tokenizer.decode([i]))}·{i}" for i in ids).replace("\n", "⏎").replace("\t", "⇥")


def unpacked(reading: Reading, stored: int) -> float:
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
    manifest = json.loads(open_place(out).read(shards.MANIFEST) or b"")
    kept = ("tokens", "documents", "bytes")
    splits = {name: {key: split[key] for key in kept} for name, split in manifest["splits"].items()}
    return {"folder": out, "splits": splits, **{key: manifest[key] for key in ("vocab_size", "read", "dropped")}}


def in_words(facts: dict[str, Any], seconds: float) -> str:
    lines = [f"{facts['folder']}: ids of {facts['vocab_size']:,} tokens"]
    for name, split in facts["splits"].items():
        if split["tokens"]:
            size = human_bytes(split["bytes"])
            lines.append(f"  {name:<6}{split['tokens']:>14,} tokens  {split['documents']:>8,} documents  {size:>10}")
    lines += [f"  {count:,} documents left out: {reason}" for reason, count in facts["dropped"].items()]
    lines += [f"  {facts['read'][name]:,} {what}" for name, what in MET.items() if facts["read"][name]]
    return "\n".join([*lines, f"done in {in_time(seconds)}; next: fledge train demo --data.path {facts['folder']}"])
