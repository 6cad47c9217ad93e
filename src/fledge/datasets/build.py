"""Build a dataset: text → parts → one shard per split and part → dataset.json, written last.

    SourceText → slices → (filters) → parts → shards → dataset.json

Until the dataset is complete, OUT/.parts holds a small record of each finished part. After a crash the same command
continues from there. A record made from other text or with other settings is ignored.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from fledge.core import fast_json
from fledge.core.checksums import verify
from fledge.core.errors import Interrupted, UserError
from fledge.core.files import PARTIAL, file_lock, new_folders, remove_partials
from fledge.core.signals import signal_number
from fledge.datasets import filters, shards
from fledge.datasets.config import DataConfig, building_settings
from fledge.datasets.executors import Executor
from fledge.datasets.filters import FilterRules
from fledge.datasets.mixing import mix
from fledge.datasets.part import Part, PartRecord, PartSpec, make_part, record_name
from fledge.datasets.plan import Progress, digest, plan_parts
from fledge.datasets.splits import SplitRule, default_val
from fledge.datasets.storage import STAGING, LocalStorage, Storage, open_storage
from fledge.text.formats import is_one_document
from fledge.text.inputs import ReadCounts
from fledge.text.source_text import SourceText
from fledge.tokenizers.base import Tokenizer, fingerprint, parse_tokenizer, serialize_tokenizer

MIN_DOCUMENTS = 100  # split_by = auto: from this many documents on, split by document
PREVIEW_BYTES = 64 << 20  # split_by = auto: how much text is read to count documents
MIN_HELD_OUT = 10  # documents
TOKENIZER_KEY = f"{STAGING}/tokenizer.key"
NUMBERED = "[0-9]*"  # in STAGING: what finished parts have left
OWN_FILES = re.compile(rf"{shards.TOKENIZER}|{shards.SHARD.pattern}|{re.escape(PARTIAL)}.*")


@dataclass(frozen=True)
class BuildSpec:
    """A dataset to build. `key` changes with the text, the settings and the tokenizer."""

    text: SourceText
    data: DataConfig
    make_tokenizer: Callable[[], Tokenizer]
    key: str
    sources: list[dict[str, Any]]  # their names, with the names, sizes and times of their files
    out: str
    ends: bool = True  # whether an end-of-text token stands after every document


@dataclass(frozen=True)
class BuildPlan:
    """What is known before encoding begins."""

    spec: BuildSpec
    tokenizer: Tokenizer
    split_rule: SplitRule
    parts: int
    finished: int
    bytes_left: int  # of text, as stored
    kept_fraction: float  # of the text, after filters


class DatasetBusy(UserError):
    """Another process is building the same dataset."""


def build(spec: BuildSpec, executor: Executor, progress: Progress, ready: Callable[[BuildPlan], None]) -> bool:
    """Build the dataset; False if it already exists. A different dataset is never overwritten."""
    if is_built(spec.out, spec.key):
        return False
    with claim_output(spec.out) as storage:
        if is_built(spec.out, spec.key):  # by a process that has just released the lock
            return False
        if storage.read(shards.MANIFEST) is not None:
            storage.remove(shards.MANIFEST)  # this dataset, but damaged: built again
        tokenizer = load_or_train_tokenizer(spec, storage)
        rule = choose_split_rule(spec.data, spec.text.to_divide)
        by_source = spec.data.shares is not None
        part_spec = PartSpec(
            spec.out, serialize_tokenizer(tokenizer), spec.text.options, rule, ends=spec.ends, by_source=by_source
        )
        parts, scans = plan_parts(spec.text, FilterRules.of(spec.data), part_spec, storage, executor, progress)
        records = finished_parts(storage, parts)
        missing = [part for part in parts if part.number not in records]
        left = sum(part.size for part in missing)
        ready(BuildPlan(spec, tokenizer, rule, len(parts), len(records), left, filters.kept_fraction(scans)))
        with progress("encoding", left) as advance:
            for part, record in executor(partial(make_part, part_spec), missing):
                records[part.number] = record
                advance(part.size)
        ordered, mixture = [records[part.number] for part in parts], None
        if spec.data.shares is not None:
            with progress("mixing", sum(record.sizes["train"] for record in ordered)) as advance:
                names = [source["name"] for source in spec.sources if "split" not in source]
                ordered, mixture = mix(storage, tokenizer, parts, ordered, spec.data.shares, names, advance)
        finish(spec, storage, tokenizer, ordered, filters.drop_counts(scans), rule, mixture)
    return True


def is_built(out: str, key: str) -> bool:
    """Whether this dataset exists and is undamaged. Anything else at `out` is refused."""
    storage, hint = open_storage(out), "choose another --out, or remove it first"
    if (content := storage.read(shards.MANIFEST)) is not None:
        with contextlib.suppress(ValueError, AttributeError):
            manifest = json.loads(content)
            if manifest.get("key") == key:
                if whole := verify(content, indent=1) and is_undamaged(storage, manifest):
                    storage.clear_staging()  # left by a process that was killed just before its end
                return whole
        raise UserError(f"'{out}' already exists", hint)
    if isinstance(storage, LocalStorage) and os.path.lexists(storage.path) and not (storage.path / STAGING).is_dir():
        raise UserError(f"'{out}' already exists", hint)
    if others := unrelated_files(storage):
        raise UserError(f"'{out}' contains a file that is not part of a dataset: '{others[0]}'", hint)
    return False


def is_undamaged(storage: Storage, manifest: dict[str, Any]) -> bool:
    """Whether the tokenizer and all shards of the manifest exist with the right hashes."""
    content = storage.read(shards.TOKENIZER) or b""
    with contextlib.suppress(ValueError, AttributeError):
        tokenizer = parse_tokenizer(fast_json.loads(content), "the dataset's tokenizer")
        infos = [info for split in manifest["splits"].values() for info in split["shards"]]
        return fingerprint(tokenizer) == manifest["tokenizer"] and all(
            storage.has_file(info["file"], info["sha256"]) for info in infos
        )
    return False


def unrelated_files(storage: Storage) -> list[str]:
    """Files that fledge did not write and must not remove."""
    return sorted(name for name in storage.names() if not OWN_FILES.fullmatch(name))


@contextlib.contextmanager
def claim_output(out: str) -> Iterator[Storage]:
    """Lock the output for the block. If the block fails, finished parts are kept."""
    storage = open_storage(out)
    with build_lock(storage, out):
        try:
            yield storage
        except BaseException as error:
            if not remove_leftovers(storage):
                add_resume_hint(error)
            raise


@contextlib.contextmanager
def build_lock(storage: Storage, out: str) -> Iterator[None]:
    """One builder per local folder. Object stores have no locks."""
    if not isinstance(storage, LocalStorage):
        yield
        return
    staging = storage.path / STAGING
    busy = DatasetBusy(f"another fledge process is writing '{out}'", "wait for it, or choose another --out")
    with new_folders(storage.path.parent):
        staging.mkdir(parents=True, exist_ok=True)
        with file_lock(staging / "lock", busy):
            for folder in (storage.path, staging):
                remove_partials(folder)
            yield


def remove_leftovers(storage: Storage) -> bool:
    """Clean up after a failed attempt; True if nothing is left to continue from. Remote files are kept."""
    if isinstance(storage, LocalStorage):
        if storage.read(shards.MANIFEST) is not None:  # another dataset: remove only our staging folder
            storage.clear_staging()
        elif not any((storage.path / STAGING).glob(NUMBERED)) and not unrelated_files(storage):
            shutil.rmtree(storage.path, ignore_errors=True)
    return storage.read(TOKENIZER_KEY) is None


def add_resume_hint(error: BaseException) -> None:
    """Say that finished parts are kept and how to continue."""
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(signal_number(error), "the same command") from None
    if isinstance(error, UserError):
        error.hint += "; finished parts are kept: run the same command to continue"


def load_or_train_tokenizer(spec: BuildSpec, storage: Storage) -> Tokenizer:
    """The tokenizer of an earlier attempt at the same dataset, else a new one."""
    content = storage.read(shards.TOKENIZER)
    if content is not None and storage.read(TOKENIZER_KEY) == digest(spec.key, content.hex()).encode():
        return parse_tokenizer(fast_json.loads(content), f"'{spec.out}/{shards.TOKENIZER}'")
    tokenizer = spec.make_tokenizer()
    content = serialize_tokenizer(tokenizer)
    storage.write(shards.TOKENIZER, content)
    storage.write(TOKENIZER_KEY, digest(spec.key, content.hex()).encode())
    return tokenizer


def choose_split_rule(data: DataConfig, text: SourceText) -> SplitRule:
    """How the text is split, where settings leave it open.

    auto: by document if there are at least MIN_DOCUMENTS, else by tail. Where the held-out share is not given either,
    it must also have room for MIN_HELD_OUT documents of average length and for the longest file, so that val becomes
    neither empty nor most of the text. Where splits have a text of their own, all of this one is for training.
    """
    val = data.val
    if val is None:
        val = 0.0 if data.val_corpus else default_val(text.text_size)
    if data.split_by == "auto" and data.held_out_sources() and not (val or data.test):
        return SplitRule("document", 0.0, 0.0)
    if data.split_by != "auto":
        return SplitRule(data.split_by, val, data.test)
    documents = size = 0
    for chunk in text.chunks():
        documents += chunk.last
        size += chunk.end - chunk.start
        if documents >= MIN_DOCUMENTS or size >= PREVIEW_BYTES:
            break
    many = documents >= MIN_DOCUMENTS
    if data.val is None and text.text_size:
        whole_files = [each.size or 0 for each in text.inputs if is_one_document(each, text.options)]
        many = many and max(size / documents * MIN_HELD_OUT, *whole_files, 0) <= val * text.text_size
    return SplitRule("document" if many else "tail", val, data.test)


def finished_parts(storage: Storage, parts: Sequence[Part]) -> dict[int, PartRecord]:
    """Records of parts made before from the same text and settings; other records are removed."""
    records, staged = {}, storage.staged_names()  # one listing: asking for each name is slow at a URL
    for part in parts:
        if record_name(part.number) not in staged:
            continue
        record = PartRecord.from_file(storage.read(record_name(part.number)) or b"", part.key)
        if record and all(storage.has_file(info.file, info.sha256) for info in record.shards.values()):
            records[part.number] = record
        else:
            storage.remove(record_name(part.number))
    return records


def finish(
    spec: BuildSpec,
    storage: Storage,
    tokenizer: Tokenizer,
    records: Sequence[PartRecord],
    dropped: dict[str, int],
    rule: SplitRule,
    mixture: list[dict[str, Any]] | None = None,
) -> None:
    """Remove files of earlier attempts, fsync the shards, and write the manifest."""
    splits = {split: [record.shards[split] for record in records if split in record.shards] for split in shards.SPLITS}
    if not any(splits.values()):
        storage.clear_staging()
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise UserError(f"the filters drop every document of {spec.text.name} ({why})", "loosen the filters of [data]")
    counts = ReadCounts()
    for record in records:
        counts.add(record.counts)
    sizes = {split: sum(record.sizes[split] for record in records) for split in shards.SPLITS}
    facts = {
        "key": spec.key,
        "sources": spec.sources,
        "files": asdict(spec.text.files),
        "data": building_settings(replace(spec.data, split_by=rule.by, val=rule.val)),
        "read": asdict(counts),
        "dropped": dropped,
        **({"mixture": mixture} if mixture else {}),
    }
    wanted = {shards.TOKENIZER, *(info.file for infos in splits.values() for info in infos)}
    for name in storage.names() - wanted:
        if OWN_FILES.fullmatch(name):
            storage.remove(name)
    storage.fsync_files(wanted)
    storage.write(shards.MANIFEST, shards.manifest(tokenizer, splits, sizes, facts))
    storage.clear_staging()
