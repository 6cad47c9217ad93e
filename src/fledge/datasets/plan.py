"""What is to be read → its parts; and, where documents are judged, a first walk over it.

    inputs → slices ─ (looked at by the engine: verdicts) ─→ parts, each with a key

A key changes with the text, the verdicts and the settings: what was made under the same key need not be made again.
Makes no part itself (part.py).
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

from fledge.datasets import filters
from fledge.datasets.executors import Executor
from fledge.datasets.filters import FilterRules, Seen
from fledge.datasets.part import Part, PartSpec, checked_content, with_checksum
from fledge.datasets.storage import STAGING, Storage, open_storage
from fledge.text import formats, sources
from fledge.text.formats import Slice
from fledge.text.inputs import Input, is_url
from fledge.text.source_text import SourceText

MIN_PART, MAX_PART, MAX_PARTS = 8 << 20, 64 << 20, 4096  # bytes of text in a part; parts

Advance = Callable[[int], None]  # so many bytes more
Watch = Callable[[str, int], contextlib.AbstractContextManager[Advance]]  # what is done, how many bytes there are


def digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def plan(
    reading: SourceText, rules: FilterRules, job: PartSpec, place: Storage, engine: Executor, watch: Watch
) -> tuple[list[Part], list[Seen]]:
    """All parts; and what was seen of the documents, if anything. The number of workers plays no role."""
    options, by_tail = job.options, job.division.by == "tail"
    walk = rules.any or (by_tail and not all(formats.sizes_known(each, options) for each in reading.inputs))
    target = max(MIN_PART, min(MAX_PART, reading.size // 64), reading.size // MAX_PARTS)
    once: list[Slice] = []
    read: list[tuple[Slice, int]] = []  # as often as weights say; the number is a place in `once`
    for each in reading.inputs:
        whole = walk and formats.is_one_document(each, options)  # so that one reader sees all of a document
        held = formats.slice_input(each, sources.WHOLE_FILE if whole else target)
        numbers = range(len(once), len(once) + len(held))
        once += held
        read += zip(sources.repeat_slices(held, each.weight), cycle(numbers), strict=False)
    slices = [part for part, _ in read]
    if not walk:
        return parts_of(slices, target, job), []
    seen = filtered_parts(once, rules, job, target, place, engine, watch)
    return parts_of(slices, target, job, [seen[number] for _, number in read]), seen


def parts_of(slices: Sequence[Slice], target: int, job: PartSpec, seen: Sequence[Seen] | None = None) -> list[Part]:
    """Slices in their order, as many in one part as make about `target` bytes."""
    groups: list[list[int]] = [[]]
    size = 0
    for at, each in enumerate(slices):
        if groups[-1] and size + each.size > target:
            groups.append([])
            size = 0
        groups[-1].append(at)
        size += each.size
    common = digest(hashlib.sha256(job.tokenizer).hexdigest(), asdict(job.options), asdict(job.division))
    versions = {each.source: source_version(each.source) for each in slices}
    parts = []
    for number, group in enumerate(groups):
        held = tuple(slices[at] for at in group)
        verdicts = tuple(seen[at] for at in group) if seen is not None else None
        facts = [(asdict(each), versions[each.source]) for each in held]
        judged_so = [hashlib.sha256(rows.tobytes()).hexdigest() for rows in verdicts or ()]
        parts.append(Part(number, digest(common, facts, judged_so), held, verdicts))
    return parts


def source_version(source: Input) -> str:
    """Changes whenever the text may have changed."""
    if is_url(source.path):
        return sources.remote_version(source.path)
    return str(Path(source.path).stat().st_mtime_ns)


# The first walk, where documents are judged


def filtered_parts(
    slices: Sequence[Slice],
    rules: FilterRules,
    job: PartSpec,
    target: int,
    place: Storage,
    engine: Executor,
    watch: Watch,
) -> list[Seen]:
    """What is known of the documents of each slice, and what becomes of them."""
    parts = parts_of(slices, target, replace(job, tokenizer=b""))
    parts = [replace(part, key=digest(part.key, asdict(rules))) for part in parts]
    there = place.work()
    looked_at = [part for part in parts if scan_name(part.number) in there]
    found = {part.number: rows for part in looked_at if (rows := cached_scan(place, part))}
    missing = [part for part in parts if part.number not in found]
    with watch("looking", sum(part.size for part in missing)) as advance:
        for part, rows in engine(partial(scan, job, rules), missing):
            found[part.number] = [each.copy() for each in rows]  # what Ray hands out cannot be written to
            advance(part.size)
    ordered = [rows for part in parts for rows in found[part.number]]
    if rules.dedup:
        filters.mark_duplicates(ordered)
    return ordered


def scan(job: PartSpec, rules: FilterRules, part: Part) -> list[Seen]:
    found = [filters.scan_part(each, job.options, rules) for each in part.slices]
    head = json.dumps({"key": part.key, "rows": [len(rows) for rows in found]}).encode()
    content = with_checksum(head + b"\n" + b"".join(rows.tobytes() for rows in found))
    open_storage(job.out).write(scan_name(part.number), content)
    return found


def cached_scan(place: Storage, part: Part) -> list[Seen] | None:
    """What `judge_part` found before, if it is whole and of the same text."""
    content = checked_content(place.read(scan_name(part.number)))
    if content is None:
        return None
    head, _, body = content.partition(b"\n")
    facts, rows = json.loads(head), np.frombuffer(body, dtype=filters.SEEN).copy()
    return np.split(rows, np.cumsum(facts["rows"])[:-1]) if facts["key"] == part.key else None


def scan_name(number: int) -> str:
    return f"{STAGING}/{number:05d}.judged"
