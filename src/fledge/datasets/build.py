"""Text → a dataset, in parts that are made in any order, by anybody, and never twice.

    reading → slices → (judge) → parts → a shard of each split → dataset.json, last

Until the dataset is whole, OUT/.parts holds a small record of each finished part. Whatever dies, the same
command goes on from there: a record that was made of other text or with other settings is not believed.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from fledge.core import fast_json
from fledge.core.checksums import verify
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import PARTIAL, file_lock, new_folders, remove_partials
from fledge.core.signals import signal_number
from fledge.datasets import filters, shards
from fledge.datasets.config import DataConfig
from fledge.datasets.executors import Executor
from fledge.datasets.filters import FilterRules
from fledge.datasets.part import Part, PartRecord, PartSpec, make_part, record_name
from fledge.datasets.plan import Watch, digest, plan
from fledge.datasets.splits import SplitRule
from fledge.datasets.storage import STAGING, LocalStorage, Storage, open_storage
from fledge.text.inputs import ReadCounts
from fledge.text.source_text import SourceText
from fledge.tokenizers.base import Tokenizer, fingerprint, parse_tokenizer, serialize_tokenizer

MANY_DOCUMENTS = 100  # from here on a split by whole documents is fair to every split
PREVIEW_DOCUMENTS = 64 << 20  # bytes: in so much text they should show
TOKENIZER_KEY = f"{STAGING}/tokenizer.key"
NUMBERED = "[0-9]*"  # in WORK: what came of the parts that are finished
OURS = re.compile(rf"{shards.TOKENIZER}|{shards.SHARD.pattern}|{re.escape(PARTIAL)}.*")

By = Literal["document", "tail"]


@dataclass(frozen=True)
class BuildSpec:
    """What is asked for. `key` changes with the text, the settings and the tokenizer."""

    reading: SourceText
    data: DataConfig
    make_tokenizer: Callable[[], Tokenizer]
    key: str
    facts: str  # about the text: names, sizes, times
    out: str


@dataclass(frozen=True)
class BuildPlan:
    """What is known before the long work begins."""

    order: BuildSpec
    tokenizer: Tokenizer
    by: By
    parts: int
    finished: int
    left: int  # bytes of text, as stored
    kept: float  # share of the text that the filters leave


class DatasetBusy(UserError):
    """Another process is making the same dataset."""


def build(order: BuildSpec, engine: Executor, watch: Watch, ready: Callable[[BuildPlan], None]) -> bool:
    """Whether there was anything to do: this very dataset may be there already. Another one is never overwritten."""
    if is_built(order.out, order.key):
        return False
    with claim(order.out) as place:
        if is_built(order.out, order.key):  # by another process, which has just let go of it
            return False
        if place.read(shards.MANIFEST) is not None:
            place.remove(shards.MANIFEST)  # it is this dataset's, and damaged: made anew
        tokenizer = load_or_train_tokenizer(order, place)
        by = split_method(order.data, order.reading)
        division = SplitRule(by, order.data.val, order.data.test)
        job = PartSpec(order.out, serialize_tokenizer(tokenizer), order.reading.options, division)
        parts, seen = plan(order.reading, FilterRules.of(order.data), job, place, engine, watch)
        records = finished_parts(place, parts)
        missing = [part for part in parts if part.number not in records]
        left = sum(part.size for part in missing)
        ready(BuildPlan(order, tokenizer, by, len(parts), len(records), left, filters.kept_fraction(seen)))
        with watch("encoding", left) as advance:
            for part, record in engine(partial(make_part, job), missing):
                records[part.number] = record
                advance(part.size)
        write_manifest(order, place, tokenizer, [records[part.number] for part in parts], filters.drop_counts(seen), by)
    return True


def is_built(out: str, key: str) -> bool:
    """Whether this very dataset is there, and whole. Anything else that is there is refused."""
    place, hint = open_storage(out), "choose another --out, or remove it first"
    if (content := place.read(shards.MANIFEST)) is not None:
        with contextlib.suppress(ValueError, AttributeError):
            manifest = json.loads(content)
            if manifest.get("made") == key:
                if whole := verify(content, indent=1) and is_whole(place, manifest):
                    place.forget_work()  # where a process was killed just before its end
                return whole
        raise UserError(f"'{out}' exists already", hint)
    if isinstance(place, LocalStorage) and os.path.lexists(place.path) and not (place.path / STAGING).is_dir():
        raise UserError(f"'{out}' exists already", hint)
    if others := foreign_files(place):
        raise UserError(f"'{out}' holds what is no part of a dataset: '{others[0]}'", hint)
    return False


def is_whole(place: Storage, manifest: dict[str, Any]) -> bool:
    """Whether what the manifest names is there, undamaged."""
    content = place.read(shards.TOKENIZER) or b""
    with contextlib.suppress(ValueError, AttributeError):
        tokenizer = parse_tokenizer(fast_json.loads(content), "the dataset's tokenizer")
        held = [info for split in manifest["splits"].values() for info in split["shards"]]
        return fingerprint(tokenizer) == manifest["tokenizer"] and all(
            place.holds(info["file"], info["sha256"]) for info in held
        )
    return False


def foreign_files(place: Storage) -> list[str]:
    """Files that fledge did not put here, and must not remove."""
    return sorted(name for name in place.names() if not OURS.fullmatch(name))


@contextlib.contextmanager
def claim(out: str) -> Iterator[Storage]:
    """The place is ours, begun or gone on with. Where the work fails, what is finished stays, if anything is."""
    place = open_storage(out)
    with build_lock(place, out):
        try:
            yield place
        except BaseException as error:
            if not remove_leftovers(place):
                remaining_errors(error)
            raise


@contextlib.contextmanager
def build_lock(place: Storage, out: str) -> Iterator[None]:
    """Nobody else writes into the same folder; an object store knows no locks."""
    if not isinstance(place, LocalStorage):
        yield
        return
    work, busy = (
        place.path / STAGING,
        DatasetBusy(f"another fledge is writing '{out}'", "wait for it, or choose another --out"),
    )
    with new_folders(place.path.parent):
        work.mkdir(parents=True, exist_ok=True)
        with file_lock(work / "lock", busy):
            for folder in (place.path, work):
                remove_partials(folder)
            yield


def remove_leftovers(place: Storage) -> bool:
    """Whether an attempt that failed has left nothing to go on with. What is far away is let be."""
    if isinstance(place, LocalStorage):
        if place.read(shards.MANIFEST) is not None:  # another dataset: only what was just begun beside it goes
            place.forget_work()
        elif not any((place.path / STAGING).glob(NUMBERED)) and not foreign_files(place):
            shutil.rmtree(place.path, ignore_errors=True)
    return place.read(TOKENIZER_KEY) is None


def remaining_errors(error: BaseException) -> None:
    """What was finished before this happened is kept; a person should know."""
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(signal_number(error), "the same command") from None
    if isinstance(error, UserError):
        error.hint += "; what is finished is kept, and the same command goes on with it"


def load_or_train_tokenizer(order: BuildSpec, place: Storage) -> Tokenizer:
    """The tokenizer of an earlier attempt, if it was made of the same text; else a new one."""
    content = place.read(shards.TOKENIZER)
    if content is not None and place.read(TOKENIZER_KEY) == digest(order.key, content.hex()).encode():
        return parse_tokenizer(fast_json.loads(content), f"'{order.out}/{shards.TOKENIZER}'")
    made = order.make_tokenizer()
    content = serialize_tokenizer(made)
    place.write(shards.TOKENIZER, content)
    place.write(TOKENIZER_KEY, digest(order.key, content.hex()).encode())
    return made


def split_method(data: DataConfig, reading: SourceText) -> By:
    if data.split_by != "auto":
        return data.split_by
    documents = held = 0
    for chunk in reading.chunks():
        documents += chunk.last
        held += len(chunk.text)
        if documents >= MANY_DOCUMENTS:
            return "document"
        if held >= PREVIEW_DOCUMENTS:
            break
    return "tail"


def finished_parts(place: Storage, parts: Sequence[Part]) -> dict[int, PartRecord]:
    """What was made before of the same text in the same way. Any other record goes, before its shards do."""
    records, there = {}, place.work()  # at a URL, to ask for each would take long
    for part in parts:
        if record_name(part.number) not in there:
            continue
        record = PartRecord.from_file(place.read(record_name(part.number)) or b"", part.key)
        if record and all(place.holds(info.file, info.sha256) for info in record.shards.values()):
            records[part.number] = record
        else:
            place.remove(record_name(part.number))
    return records


def write_manifest(
    order: BuildSpec,
    place: Storage,
    tokenizer: Tokenizer,
    records: Sequence[PartRecord],
    dropped: dict[str, int],
    by: By,
) -> None:
    """What nobody needs goes, and the manifest is written."""
    splits = {split: [record.shards[split] for record in records if split in record.shards] for split in shards.SPLITS}
    if not any(splits.values()):
        place.forget_work()  # it would help nobody
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise UserError(f"nothing is left of the text in {order.reading.name} ({why})", "loosen the filters of [data]")
    counts = ReadCounts()
    for record in records:
        counts.add(record.counts)
    sizes = {split: sum(record.sizes[split] for record in records) for split in shards.SPLITS}
    facts = {"made": order.key, "source": order.facts, "split_by": by, "read": asdict(counts), "dropped": dropped}
    wanted = {shards.TOKENIZER, *(info.file for infos in splits.values() for info in infos)}
    for name in place.names() - wanted:
        if OURS.fullmatch(name):
            place.remove(name)
    place.settle(wanted)
    place.write(shards.MANIFEST, shards.manifest(tokenizer, splits, sizes, facts))
    place.forget_work()
