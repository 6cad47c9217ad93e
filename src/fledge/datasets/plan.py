"""Plan the parts of a dataset; where filters are on, scan all documents first.

    inputs → slices → (scan: verdicts per document) → parts, each with a key

A key changes with the text, the verdicts and the settings: a finished part with the same key is reused.
Parts are made by part.py.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from fledge.core.checksums import checked_content, with_checksum
from fledge.datasets import filters
from fledge.datasets.executors import Executor
from fledge.datasets.filters import DocumentScan, FilterRules
from fledge.datasets.part import Part, PartSpec
from fledge.datasets.storage import STAGING, Storage, open_storage
from fledge.text import formats, sources
from fledge.text.inputs import Input, Slice, is_url
from fledge.text.source_text import SourceText

MIN_PART, MAX_PART, MAX_PARTS = 8 << 20, 64 << 20, 4096  # bytes of text in a part; number of parts

Advance = Callable[[int], None]  # bytes done
Progress = Callable[[str, int], contextlib.AbstractContextManager[Advance]]  # label, total bytes


def digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def plan_parts(
    text: SourceText, rules: FilterRules, spec: PartSpec, storage: Storage, executor: Executor, progress: Progress
) -> tuple[list[Part], list[DocumentScan]]:
    """All parts, and the scans of the documents if there were any. Independent of the number of workers."""
    options, by_tail = spec.options, spec.split_rule.by == "tail"
    scan = rules.any or (by_tail and not all(formats.sizes_known(each, options) for each in text.to_divide.inputs))
    target = max(MIN_PART, min(MAX_PART, text.size // 64), text.size // MAX_PARTS)
    unique: list[Slice] = []
    repeated: list[tuple[Slice, int]] = []  # as often as weights say, with the index in `unique`
    for each in text.inputs:
        whole = scan and formats.is_one_document(each, options)  # a scan must see the whole document
        found, weight = sources.weighted_slices(each, sources.WHOLE_FILE if whole else target, options)
        indices = range(len(unique), len(unique) + len(found))
        unique += found
        repeated += zip(sources.repeat_slices(found, weight), cycle(indices), strict=False)
    slices = [part for part, _ in repeated]
    if not scan:
        return group_parts(slices, target, spec), []
    scans = scan_slices(unique, rules, spec, target, storage, executor, progress)
    return group_parts(slices, target, spec, [scans[index] for _, index in repeated]), scans


def group_parts(
    slices: Sequence[Slice], target: int, spec: PartSpec, scans: Sequence[DocumentScan] | None = None
) -> list[Part]:
    """Consecutive slices, grouped into parts of about `target` bytes."""
    groups: list[list[int]] = [[]]
    size, source = 0, 0
    for index, each in enumerate(slices):
        other = spec.by_source and each.source.source != source
        source = each.source.source
        if groups[-1] and (size + each.size > target or other):
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += each.size
    common = digest(
        hashlib.sha256(spec.tokenizer).hexdigest(), asdict(spec.options), asdict(spec.split_rule), spec.ends
    )
    versions = {each.source: source_version(each.source) for each in slices}
    parts = []
    for number, group in enumerate(groups):
        chosen = tuple(slices[index] for index in group)
        verdicts = tuple(scans[index] for index in group) if scans is not None else None
        facts = [(asdict(each), versions[each.source]) for each in chosen]
        verdict_hashes = [hashlib.sha256(rows.tobytes()).hexdigest() for rows in verdicts or ()]
        parts.append(Part(number, digest(common, facts, verdict_hashes), chosen, verdicts))
    return parts


def source_version(source: Input) -> str:
    """Changes whenever the text may have changed."""
    if is_url(source.path):
        return sources.remote_version(source.path)
    return str(Path(source.path).stat().st_mtime_ns)


# The scan for filters


def scan_slices(
    slices: Sequence[Slice],
    rules: FilterRules,
    spec: PartSpec,
    target: int,
    storage: Storage,
    executor: Executor,
    progress: Progress,
) -> list[DocumentScan]:
    """The verdict on every document of each slice; reuses scans of an earlier attempt."""
    parts = group_parts(slices, target, replace(spec, tokenizer=b""))
    parts = [replace(part, key=digest(part.key, asdict(rules))) for part in parts]
    staged = storage.staged_names()
    scanned = [part for part in parts if scan_name(part.number) in staged]
    found = {part.number: scans for part in scanned if (scans := cached_scan(storage, part))}
    missing = [part for part in parts if part.number not in found]
    with progress("scanning", sum(part.size for part in missing)) as advance:
        for part, scans in executor(partial(scan_part, spec, rules), missing):
            found[part.number] = [each.copy() for each in scans]  # arrays from Ray are read-only
            advance(part.size)
    ordered = [scan for part in parts for scan in found[part.number]]
    if rules.dedup:
        filters.mark_duplicates(ordered)
    return ordered


def scan_part(spec: PartSpec, rules: FilterRules, part: Part) -> list[DocumentScan]:
    """Scan the slices of a part and keep the result in the staging folder."""
    scans = [filters.scan_slice(each, spec.options, rules) for each in part.slices]
    body = b"".join(rows.tobytes() for rows in scans)
    facts = {"key": part.key, "rows": [len(rows) for rows in scans], "sha256": hashlib.sha256(body).hexdigest()}
    open_storage(spec.out).write(scan_name(part.number), with_checksum(facts) + b"\n" + body)
    return scans


def cached_scan(storage: Storage, part: Part) -> list[DocumentScan] | None:
    """What `scan_part` wrote before, if it is undamaged and of the same text."""
    head, _, body = (storage.read(scan_name(part.number)) or b"").partition(b"\n")
    try:
        facts = checked_content(head)
    except ValueError:
        return None
    if facts.get("key") != part.key or facts["sha256"] != hashlib.sha256(body).hexdigest():
        return None
    rows = np.frombuffer(body, dtype=filters.SCAN_ROW).copy()
    return np.split(rows, np.cumsum(facts["rows"])[:-1])


def scan_name(number: int) -> str:
    return f"{STAGING}/{number:05d}.scan"
