"""SOURCE → inputs → documents. All text enters fledge here.

    python, wikitext-103, …                     a named corpus (corpora.py)
    book.txt   notes/   'logs/**/*.jsonl'       a file; a folder with everything below it; a glob
    https://…                                   downloaded once, into the cache
    hf://datasets/OWNER/NAME[@REV]/PATH         a file, folder or glob on the Hugging Face Hub; downloaded once
    s3://…  and other URLs that fsspec opens    read in place; a file, a folder or a glob
    SOURCE:WEIGHT                               0.3 samples three documents of ten, 2 reads each twice

A path takes precedence over a corpus of the same name, and over a weight. Files are read in the order of their paths.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, user_path
from fledge.downloads import http, hub
from fledge.text import corpora, formats
from fledge.text.formats import describe
from fledge.text.inputs import Chunk, Document, Input, ReadCounts, ReadOptions, Slice, is_url, storage_errors
from fledge.text.local_files import GLOB_CHARS, is_hidden, list_local

WEIGHT = re.compile(r"(?P<source>.+):(?P<weight>\d+(\.\d+)?|\.\d+)")
Fetch = Callable[[], Input]  # downloads the file if necessary
WHOLE_FILE = sys.maxsize  # bytes: a slice that is the whole input
# Sampled by whole files, or by whole slices of a large one: so small a share, if it has so many of them.
SMALL_SHARE, LARGE_SLICE, MANY_SLICES, MANY_FILES = 0.25, 1 << 20, 4, 16
SAMPLED_SLICE = 4 << 20  # bytes
STRICT = ReadOptions(errors="strict")


@dataclass(frozen=True)
class Found:
    """The text files of a source, each downloaded when its function is called; name and kind of the other files."""

    files: Sequence[tuple[str, Fetch]]
    skipped: Sequence[tuple[str, str]] = ()
    root: Path | None = None  # the folder of local files

    def relative_name(self, file: str) -> str:
        return file if self.root is None else str(Path(file).relative_to(self.root))


def fetch_inputs(source: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Input]:
    """The files of a SOURCE, downloaded and inspected. `include`, `exclude`: globs on file names."""
    return [fetch() for _, fetch in find_files(source, include, exclude).files]


def find_files(source: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Found:
    """The same, but each file is downloaded only when its function is called."""
    bare, weight = split_weight(source)
    found = _find_files(bare)
    if include or exclude:
        found = replace(
            found,
            files=[each for each in found.files if _is_selected(each[0], include, exclude)],
            skipped=[each for each in found.skipped if _is_selected(each[0], include, exclude)],
        )
        if not found.files:
            raise UserError(f"no file of '{bare}' is left after data.include and data.exclude", "loosen them")
    return replace(found, files=[(name, partial(_fetch_weighted, fetch, weight)) for name, fetch in found.files])


def _fetch_weighted(fetch: Fetch, weight: float) -> Input:
    return replace(fetch(), weight=weight)


def split_weight(source: str) -> tuple[str, float]:
    """`wikipedia-en:0.3` → the source and its weight."""
    match = WEIGHT.fullmatch(source)
    if match is None or (not is_url(source) and user_path(source).exists()):
        return source, 1.0
    bare, weight = match["source"], float(match["weight"])
    if re.fullmatch(r"\w+://[^/]+", bare):  # host:port
        return source, 1.0
    if weight == 0 or weight > 1000:
        raise UserError(f"'{source}': the weight {match['weight']} is out of range", "use one like 0.3 or 2")
    return bare, weight


def _find_files(source: str) -> Found:
    if source.startswith("hf://"):
        return Found([(file.name, partial(_from_hub, file)) for file in _hub_files(source)])
    if source.startswith(("http://", "https://")):
        return Found([(source, partial(_from_web, source))])
    if is_url(source):
        return Found([(url, partial(describe, url, url, size)) for url, size in _list_remote(source)])
    path = user_path(source)
    if path.exists() or GLOB_CHARS.search(source):
        listing = list_local(path)
        named = [(str(file), partial(describe, str(file), str(file))) for file in listing.files]
        return Found(named, [(str(file), kind) for file, kind in listing.skipped], listing.root)
    return Found(_corpus_files(_named_corpus(source)))


def _named_corpus(source: str) -> corpora.Corpus:
    """For a source that is no path: what looks like one is refused as such."""
    if "/" in source or user_path(source).suffix:
        raise UserError(f"no such file or folder: '{source}'", "check the path; 'fledge corpora' lists named corpora")
    return corpora.find_corpus(source)


def _corpus_files(corpus: corpora.Corpus) -> list[tuple[str, Fetch]]:
    def with_options(fetch: Fetch) -> Input:
        return replace(fetch(), field=corpus.field, separator=corpus.separator, heading=corpus.heading)

    if corpus.files:
        return [(name, partial(_from_corpus, name, path)) for name, path in corpus.files()]
    return [(name, partial(with_options, fetch)) for name, fetch in _find_files(corpus.origin).files]


def _from_corpus(name: str, path: Callable[[], str]) -> Input:
    return describe(name, path())


def _hub_files(source: str) -> list[hub.HubFile]:
    return hub.dataset_files(source, formats.is_readable_name)


def _from_hub(file: hub.HubFile) -> Input:
    return describe(file.name, str(hub.download_file(file)))


def _from_web(url: str) -> Input:
    plain = url.partition("?")[0].partition("#")[0]
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(plain).name[-100:]}"
    return describe(url, str(http.fetch(url, cache_dir() / "downloads" / "web" / name)))


def _list_remote(url: str) -> list[tuple[str, int | None]]:
    """URL and size of a file, of all files below a folder, or of those that match a glob."""
    import fsspec

    with storage_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        if GLOB_CHARS.search(path):
            found = {p: info for p, info in system.glob(path, detail=True).items() if info["type"] == "file"}
        else:
            found = system.find(path, detail=True)
        visible = {p: info for p, info in found.items() if not is_hidden(Path(p).parts)}
        if not visible:
            raise UserError(f"there is no file at '{url}'", "check the address")
        return [(system.unstrip_protocol(p), info.get("size")) for p, info in sorted(visible.items())]


def _is_selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    def matches(pattern: str) -> bool:
        return fnmatch(name, pattern) or fnmatch(name, "*/" + pattern)

    return (not include or any(map(matches, include))) and not any(map(matches, exclude))


def thin_files(inputs: Sequence[Input]) -> list[Input]:
    """Of a small share of many files of one source, whole files, evenly spaced: the others need not be read.

    Files whose own share is large stay: `weighted_slices` takes slices of them.
    """
    weight = inputs[0].weight if inputs else 1.0
    small = [each for each in inputs if weight * (each.size or 0) < MANY_SLICES * LARGE_SLICE]
    count = round(weight * len(small))
    if weight > SMALL_SHARE or count < MANY_FILES:
        return list(inputs)
    chosen = {small[place] for place in evenly_spaced(count, len(small))}
    left_out = {*small} - chosen
    return [replace(each, weight=1.0) if each in chosen else each for each in inputs if each not in left_out]


def evenly_spaced(count: int, length: int) -> list[int]:
    """`count` indices of a sequence of this length: it is cut into equal spans, and each gives its middle."""
    return [(2 * number + 1) * length // (2 * count) for number in range(count)]


def slice_inputs(inputs: Iterable[Input], target: int, options: ReadOptions) -> list[Slice]:
    """All inputs in slices of about `target` bytes, repeated and sampled by their weights."""
    return [part for each in inputs for part in repeat_slices(*weighted_slices(each, target, options))]


def weighted_slices(source: Input, target: int, options: ReadOptions) -> tuple[list[Slice], float]:
    """Of a small share of a large file, whole slices, evenly spaced: the rest need not be read. Their weight is 1.

    Else all slices, with the weight that their chunks are sampled by.
    """
    slices, weight = formats.slice_input(source, target), source.weight
    count = round(weight * len(slices))
    if weight > SMALL_SHARE or count < MANY_SLICES or slices[0].size < LARGE_SLICE:
        return slices, weight
    alone = formats.is_one_document(source, options)
    return [replace(slices[place], alone=alone) for place in evenly_spaced(count, len(slices))], 1.0


def repeat_slices(slices: list[Slice], weight: float) -> list[Slice]:
    """The slices of an input as often as its weight says; the last repetition may be a sample."""
    fraction = weight - int(weight)
    return slices * int(weight) + [replace(part, fraction=fraction) for part in slices if fraction]


def sample_chunks(chunks: Iterable[Chunk], part: Slice) -> Iterator[Chunk]:
    """What is taken of the chunks of a slice: all of them, or a sample."""
    return as_document(chunks, part.size) if part.alone else sample_by_hash(chunks, part.fraction)


def as_document(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk]:
    """The chunks of a slice, which has so many bytes, as a document of its own."""
    begin, before = 0, None
    for chunk in chunks:
        if before is None:
            begin = chunk.start
        else:
            yield before
        before = replace(chunk, last=False, start=chunk.start - begin, end=chunk.end - begin, size=size)
    if before is not None:
        yield replace(before, last=True)


def sample_by_hash(chunks: Iterable[Chunk], fraction: float) -> Iterator[Chunk]:
    """The same chunks every time.

    A long document is sampled chunk by chunk, each then a document of its own, so that a fraction of one long text
    is a fraction of it too.
    """
    if fraction == 1:
        yield from chunks
        return
    for chunk in chunks:
        digest = hashlib.sha256(b"share\0" + chunk.text.encode()).digest()
        if int.from_bytes(digest[:8], "big") < fraction * 2**64:
            length = chunk.end - chunk.start
            yield replace(chunk, last=True, start=0, end=length, size=length)


def read_inputs(
    inputs: Iterable[Input], options: ReadOptions | None = None, counts: ReadCounts | None = None
) -> Iterator[Chunk]:
    """The documents of all inputs, each as often as its weight says, one input after another."""
    options = options or ReadOptions()
    for each in inputs:
        target = SAMPLED_SLICE if each.weight <= SMALL_SHARE else WHOLE_FILE
        for part in slice_inputs([each], target, options):
            yield from sample_chunks(formats.read_slice(part, options, counts), part)


def read_source(source: str) -> Iterator[Document]:
    """The documents of one source, whole, always in the same order. Bytes that are not UTF-8 are refused."""
    found = find_files(source).files  # not inside the generator: a missing source is refused at once
    return formats.join_chunks(read_inputs((fetch() for _, fetch in found), STRICT))


@dataclass(frozen=True)
class SourceVersion:
    """What tells one version of a source from another without reading it.

    name    as it was given
    place   the folder of its files on this machine, else the source without its weight
    files   names, sizes and times of its files, or hashes and versions: what the storage tells
    """

    name: str
    place: str
    weight: float
    files: tuple[str, ...]


def source_versions(sources: Iterable[str]) -> list[SourceVersion]:
    found = []
    for source in sources:
        bare, weight = split_weight(source)
        place, files = _file_versions(bare)
        found.append(SourceVersion(source, place, weight, tuple(files)))
    return found


def _file_versions(source: str) -> tuple[str, Iterable[str]]:
    if source.startswith("hf://"):
        return source, (f"{file.name} {file.size} {file.hash}" for file in _hub_files(source))
    if source.startswith(("http://", "https://")):
        return source, [source]
    if is_url(source):
        return source, (f"{url} {size} {remote_version(url)}" for url, size in _list_remote(source))
    if (path := user_path(source)).exists() or GLOB_CHARS.search(source):
        found = list_local(path)
        stats = ((file.relative_to(found.root), file.stat()) for file in found.files)
        return str(found.root.resolve()), (f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return source, [f"{source} {_named_corpus(source).version()}"]


def remote_version(url: str) -> str:
    """Changes when the file at the URL is written again: its ETag or modification time."""
    import fsspec

    with storage_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
    return str(next((info[key] for key in ("ETag", "etag", "mtime", "LastModified") if info.get(key)), ""))
