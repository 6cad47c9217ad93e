"""Text → a dataset, in parts that are made in any order, by anybody, and never twice.

    reading → slices → (judge) → parts → a shard of each split → dataset.json, last

Until the dataset is whole, OUT/.parts holds a small record of each finished part. Whatever dies, the same
command goes on from there: a record that was made of other text or with other settings is not believed.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fledge.base.errors import UserError
from fledge.base.files import locked, new_folders, remove_partials
from fledge.datasets import judge, shards
from fledge.datasets.config import DataConfig
from fledge.datasets.division import Division
from fledge.datasets.engines import Engine
from fledge.datasets.judge import Rules, Seen
from fledge.datasets.part import Job, Part, Record, make_part, record_name
from fledge.datasets.place import WORK, Folder, Place, open_place
from fledge.text import sources
from fledge.text.formats import Slice, Tally, is_one_document, sizes_known
from fledge.text.inputs import Input, is_url
from fledge.text.reading import Reading
from fledge.tokens import tokenizer as tokenizers
from fledge.tokens.tokenizer import Tokenizer

MANY_DOCUMENTS = 100  # from here on a split by whole documents is fair to every split
LOOKED_AT = 64 << 20  # bytes: in so much text they should show
LEAST, MOST, MOST_PARTS = 8 << 20, 64 << 20, 4096  # bytes of text in a part; parts
TOKENIZER_KEY = f"{WORK}/tokenizer.key"

By = Literal["document", "tail"]
Advance = Callable[[int], None]  # so many bytes more
Watch = Callable[[str, int], contextlib.AbstractContextManager[Advance]]  # what is done, how many bytes there are


@dataclass(frozen=True)
class Order:
    """What is asked for. `key` changes with the text, the settings and the tokenizer."""

    reading: Reading
    data: DataConfig
    make_tokenizer: Callable[[], Tokenizer]
    key: str
    facts: str  # about the text: names, sizes, times
    out: str


@dataclass(frozen=True)
class Ahead:
    """What is known before the long work begins. `left` is in bytes of text, as stored."""

    order: Order
    tokenizer: Tokenizer
    by: By
    parts: int
    finished: int
    left: int


class Busy(UserError):
    """Another process is making the same dataset."""


def digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def build(order: Order, engine: Engine, watch: Watch, ready: Callable[[Ahead], None]) -> None:
    """Nothing is done where this very dataset is there already; another one is never overwritten."""
    if is_built(order.out, order.key):
        return
    with claimed(order.out) as place:
        tokenizer = kept_tokenizer(order, place)
        by = how_divided(order.data, order.reading)
        job = Job(
            order.out,
            json.dumps(tokenizer.to_json()),
            order.reading.options,
            Division(by, order.data.val, order.data.test),
        )
        parts = plan(order, job, place, engine, watch)
        records = {part.number: record for part in parts if (record := finished(place, part))}
        missing = [part for part in parts if part.number not in records]
        left = sum(part.size for part in missing)
        ready(Ahead(order, tokenizer, by, len(parts), len(records), left))
        with watch("encoding", left) as advance:
            for part, record in engine(partial(make_part, job), missing):
                records[part.number] = record
                advance(part.size)
        complete(order, place, tokenizer, parts, [records[part.number] for part in parts], by)


def is_built(out: str, key: str) -> bool:
    place = open_place(out)
    taken = UserError(f"'{out}' exists already", "choose another --out, or remove it first")
    if (content := place.read(shards.MANIFEST)) is not None:
        with contextlib.suppress(ValueError, AttributeError):
            if json.loads(content).get("made") == key:
                place.forget_work()  # where a process was killed just before its end
                return True
        raise taken
    if isinstance(place, Folder) and os.path.lexists(place.path) and not (place.path / WORK).is_dir():
        raise taken
    return False


@contextlib.contextmanager
def claimed(out: str) -> Iterator[Place]:
    """The place is ours, begun or gone on with. Where the work fails, what is finished stays, if anything is."""
    place = open_place(out)
    if not isinstance(place, Folder):
        yield place
        return
    folder, busy = place.path, Busy(f"another fledge is writing '{out}'", "wait for it, or choose another --out")
    with new_folders(folder.parent):
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        try:
            with locked(folder / WORK / "lock", busy):
                remove_partials(folder / WORK)
                yield place
        except Busy:
            raise
        except BaseException as error:
            if not any((folder / WORK).glob("0*")):
                shutil.rmtree(folder, ignore_errors=True)
            elif isinstance(error, UserError):
                hint = f"{error.hint}; what is finished is kept, and the same command goes on with it"
                raise UserError(error.message, hint) from error
            raise


def kept_tokenizer(order: Order, place: Place) -> Tokenizer:
    """The tokenizer of an earlier attempt, if it was made of the same text; else a new one."""
    content = place.read(shards.TOKENIZER)
    if content is not None and place.read(TOKENIZER_KEY) == digest(order.key, content.hex()).encode():
        return tokenizers.parse(json.loads(content), f"'{order.out}/{shards.TOKENIZER}'")
    made = order.make_tokenizer()
    content = tokenizers.to_file(made).encode()
    place.write(shards.TOKENIZER, content)
    place.write(TOKENIZER_KEY, digest(order.key, content.hex()).encode())
    return made


def how_divided(data: DataConfig, reading: Reading) -> By:
    if data.split_by != "auto":
        return data.split_by
    documents = held = 0
    for piece in reading.pieces():
        documents += piece.last
        held += len(piece.text)
        if documents >= MANY_DOCUMENTS:
            return "document"
        if held >= LOOKED_AT:
            break
    return "tail"


# Parts


def plan(order: Order, job: Job, place: Place, engine: Engine, watch: Watch) -> list[Part]:
    """All parts, each with the verdicts on its documents, where there are any. The number of workers plays no role."""
    reading, rules, options = order.reading, Rules.of(order.data), job.options
    walk = rules.any or (job.division.by == "tail" and not all(sizes_known(i, options) for i in reading.inputs))
    target = max(LEAST, min(MOST, reading.size // 64), reading.size // MOST_PARTS)

    def cut(each: Input) -> list[Slice]:
        whole = walk and is_one_document(each, options)  # so that one reader sees all of a document
        return sources.slices([each], sources.ENDLESS if whole else target)

    slices = [part for each in reading.inputs for part in cut(each)]
    seen = judged(slices, rules, job, place, target, engine, watch) if walk else None
    return parts_of(slices, target, job, seen)


def parts_of(slices: Sequence[Slice], target: int, job: Job, seen: dict[Slice, Seen] | None = None) -> list[Part]:
    """Slices in their order, as many in one part as make about `target` bytes."""
    groups: list[list[Slice]] = [[]]
    held = 0
    for each in slices:
        if groups[-1] and held + each.size > target:
            groups.append([])
            held = 0
        groups[-1].append(each)
        held += each.size
    same = (job.tokenizer, asdict(job.options), asdict(job.division))
    common, versions = digest(same), {each.source: version(each.source) for each in slices}
    parts = []
    for number, group in enumerate(groups):
        verdicts = tuple(seen[replace(each, share=1.0)] for each in group) if seen is not None else None
        judged_so = [hashlib.sha256(rows.tobytes()).hexdigest() for rows in verdicts or ()]
        facts = [(asdict(each), versions[each.source]) for each in group]
        parts.append(Part(number, digest(common, facts, judged_so), tuple(group), verdicts))
    return parts


def version(source: Input) -> str:
    """Changes whenever the text may have changed."""
    if is_url(source.path):
        return sources.stored_version(source.path)
    return str(Path(source.path).stat().st_mtime_ns)


def finished(place: Place, part: Part) -> Record | None:
    content = place.read(record_name(part.number))
    record = Record.from_json(content) if content else None
    if record is None or record.key != part.key:
        return None
    return record if all(place.holds(info.file, info.sha256) for info in record.shards.values()) else None


# The first walk, where documents are judged


def judged(
    slices: Sequence[Slice], rules: Rules, job: Job, place: Place, target: int, engine: Engine, watch: Watch
) -> dict[Slice, Seen]:
    """What is known of the documents of each slice; a slice that is read twice is judged once."""
    once = list(dict.fromkeys(replace(each, share=1.0) for each in slices))
    parts = parts_of(once, target, replace(job, tokenizer=""))
    parts = [replace(part, key=digest(part.key, asdict(rules))) for part in parts]
    found = {part.number: rows for part in parts if (rows := known(place, part))}
    missing = [part for part in parts if part.number not in found]
    with watch("looking", sum(part.size for part in missing)) as advance:
        for part, rows in engine(partial(judge_part, job, rules), missing):
            found[part.number] = rows
            advance(part.size)
    ordered = [rows for part in parts for rows in found[part.number]]
    if rules.dedup:
        judge.mark_repeated(ordered)
    return dict(zip(once, ordered, strict=True))


def judge_part(job: Job, rules: Rules, part: Part) -> list[Seen]:
    found = [judge.look(each, job.options, rules) for each in part.slices]
    body = b"".join(rows.tobytes() for rows in found)
    head = {"key": part.key, "rows": [len(rows) for rows in found], "sha256": hashlib.sha256(body).hexdigest()}
    open_place(job.out).write(judged_name(part.number), json.dumps(head).encode() + b"\n" + body)
    return found


def known(place: Place, part: Part) -> list[Seen] | None:
    """What `judge_part` found before, if it is whole and of the same text."""
    head, _, body = (place.read(judged_name(part.number)) or b"").partition(b"\n")
    try:
        facts = json.loads(head)
        if facts["key"] != part.key or facts["sha256"] != hashlib.sha256(body).hexdigest():
            return None
    except (ValueError, TypeError, KeyError):
        return None
    rows, ends = np.frombuffer(body, dtype=judge.SEEN).copy(), np.cumsum(facts["rows"])
    return np.split(rows, ends[:-1])


def judged_name(number: int) -> str:
    return f"{WORK}/{number:05d}.judged"


def verdicts_of(parts: Sequence[Part]) -> list[Seen]:
    """Of each slice once, however often it is read."""
    judged_parts = [(part.slices, part.seen) for part in parts if part.seen is not None]
    found = {
        replace(each, share=1.0): rows for held, seen in judged_parts for each, rows in zip(held, seen, strict=True)
    }
    return list(found.values())


# The end


def complete(
    order: Order, place: Place, tokenizer: Tokenizer, parts: Sequence[Part], records: Sequence[Record], by: By
) -> None:
    """What nobody needs goes, and the manifest is written."""
    dropped = judge.counts(verdicts_of(parts))
    splits = {split: [record.shards[split] for record in records if split in record.shards] for split in shards.SPLITS}
    if not any(splits.values()):
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise UserError(f"nothing is left of the text in {order.reading.name} ({why})", "loosen the filters of [data]")
    tally = Tally()
    for record in records:
        tally.add(record.tally)
    sizes = {split: sum(record.sizes[split] for record in records) for split in shards.SPLITS}
    facts = {"made": order.key, "source": order.facts, "split_by": by, "read": asdict(tally), "dropped": dropped}
    wanted = {shards.TOKENIZER, *(info.file for infos in splits.values() for info in infos)}
    for name in place.names() - wanted:
        place.remove(name)
    place.settle(wanted)
    place.write(shards.MANIFEST, shards.manifest(tokenizer, splits, sizes, facts))
    place.forget_work()
