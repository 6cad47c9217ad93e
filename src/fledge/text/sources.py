"""SOURCE → inputs → documents, whatever SOURCE is. The one door through which text enters.

    python, wikitext-103, …                     a named corpus (corpora.py)
    book.txt   notes/   'logs/**/*.jsonl'       a file; a folder with all below it; a glob
    https://…                                   downloaded once, into the cache
    hf://datasets/OWNER/NAME[@REV]/PATH         a file, folder or glob on the Hub; downloaded once
    s3://…  and what else fsspec opens          read where it lies; a file, a folder or a glob
    SOURCE:WEIGHT                               0.3 takes three documents of ten, 2 takes each twice

A path wins over a corpus of the same name, and over a weight. The order is always that of the paths.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, user_path
from fledge.text import corpora, download, formats, hub
from fledge.text.formats import Slice, is_text
from fledge.text.inputs import Chunk, Document, Input, ReadCounts, ReadOptions, describe, is_url, storage_errors

Fetch = Callable[[], Input]  # an input that may have to be downloaded first
WEIGHT = re.compile(r"(?P<source>.+):(?P<weight>\d+(\.\d+)?|\.\d+)")
WHOLE_FILE = sys.maxsize  # bytes: a slice that is the whole input
GLOB_CHARS = re.compile(r"[*?\[]")
STRICT = ReadOptions(errors="strict")


def fetch_inputs(source: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Input]:
    """What a SOURCE means, each file looked at, remote ones downloaded. `include`, `exclude`: globs on names."""
    return [fetch() for fetch in find_inputs(source, include, exclude)]


def find_inputs(source: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Fetch]:
    """The same, but nothing is downloaded before it is asked for."""
    bare, weight = split_weight(source)
    named = _find_files(bare)
    if include or exclude:
        named = [(name, fetch) for name, fetch in named if _is_selected(name, include, exclude)]
        if not named:
            raise UserError(f"nothing in '{bare}' is left after data.include and data.exclude", "loosen them")
    return [partial(_fetch_weighted, fetch, weight) for _, fetch in named]


def _fetch_weighted(fetch: Fetch, weight: float) -> Input:
    return replace(fetch(), weight=weight)


def split_weight(source: str) -> tuple[str, float]:
    """`wikipedia-en:0.3` → what to read, and how much of it."""
    match = WEIGHT.fullmatch(source)
    if match is None or (not is_url(source) and user_path(source).exists()):
        return source, 1.0
    bare, weight = match["source"], float(match["weight"])
    if re.fullmatch(r"\w+://[^/]+", bare):  # host:port
        return source, 1.0
    if weight == 0 or weight > 1000:
        raise UserError(f"'{source}': a weight of {match['weight']} makes no sense", "use one like 0.3 or 2")
    return bare, weight


def _find_files(source: str) -> list[tuple[str, Fetch]]:
    """Every file of a source: a name for it, and how to get it."""
    if source.startswith("hf://"):
        return [(file.name, partial(_from_hub, file)) for file in hub.files(source)]
    if source.startswith(("http://", "https://")):
        return [(source, partial(_from_web, source))]
    if is_url(source):
        return [(url, partial(describe, url, url, size)) for url, size in _list_remote(source)]
    path = user_path(source)
    if path.exists() or GLOB_CHARS.search(source):
        return [(str(file), partial(describe, str(file), str(file))) for file in _list_local(path)]
    if "/" in source or path.suffix:
        raise UserError(f"no such file or folder: '{source}'", "check the path; 'fledge corpora' lists the named texts")
    return _corpus_files(corpora.find_corpus(source))


def _corpus_files(corpus: corpora.Corpus) -> list[tuple[str, Fetch]]:
    def own(fetch: Fetch) -> Input:
        return replace(fetch(), field=corpus.field, separator=corpus.separator, heading=corpus.heading)

    if corpus.files:
        return [(name, partial(_from_file, name, path)) for name, path in corpus.files()]
    return [(name, partial(own, fetch)) for name, fetch in _find_files(corpus.origin)]


def _from_file(name: str, path: Callable[[], str]) -> Input:
    return describe(name, path())


def _from_hub(file: hub.HubFile) -> Input:
    return describe(file.name, str(hub.download(file)))


def _from_web(url: str) -> Input:
    plain = url.partition("?")[0].partition("#")[0]
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(plain).name[-100:]}"
    return describe(url, str(download.fetch(url, cache_dir() / "downloads" / "web" / name)))


def _list_remote(url: str) -> list[tuple[str, int | None]]:
    """What a URL means to fsspec: a file, all below a folder, or what matches a glob."""
    import fsspec

    with storage_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        if GLOB_CHARS.search(path):
            found = {p: facts for p, facts in system.glob(path, detail=True).items() if facts["type"] == "file"}
        else:
            found = system.find(path, detail=True)
        shown = {p: facts for p, facts in found.items() if not is_hidden(Path(p).parts)}
        if not shown:
            raise UserError(f"there is no file at '{url}'", "check the address")
        return [(system.unstrip_protocol(p), facts.get("size")) for p, facts in sorted(shown.items())]


def _list_local(path: Path) -> list[Path]:
    """A file; every text file below a folder, in the order of its path; or what matches a glob.

    Hidden files are passed over, and binary ones, unless one is named.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        root, found = path, path.rglob("*")
    elif path.exists():
        raise UserError(f"'{path}' is a pipe or a device: text is read more than once", "save it in a file first")
    elif any("**" in part != "**" for part in path.parts):
        raise UserError(f"'{path}': ** stands for whole folders", "write it between slashes: logs/**/*.txt")
    else:
        plain = next(i for i, part in enumerate(path.parts) if GLOB_CHARS.search(part))
        root = Path(*path.parts[:plain])
        found = root.glob(str(Path(*path.parts[plain:])))
    shown = (p for p in sorted(found) if not is_hidden(p.relative_to(root).parts))
    files = [p for p in shown if p.is_file() and is_text(p)]
    if not files and not path.is_dir():
        raise UserError(f"no text file matches '{path}'", "check the pattern; ** reaches into folders")
    return files


def is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def _is_selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    def matches(pattern: str) -> bool:
        return fnmatch(name, pattern) or fnmatch(name, "*/" + pattern)

    return (not include or any(map(matches, include))) and not any(map(matches, exclude))


def slice_inputs(several: Iterable[Input], target: int) -> list[Slice]:
    """All that is to be read, in parts of about `target` bytes."""
    return [part for each in several for part in repeat_slices(formats.slice_input(each, target), each.weight)]


def repeat_slices(once: list[Slice], weight: float) -> list[Slice]:
    """The slices of an input, as often as its weight says; of the last time perhaps only a share."""
    fraction = weight - int(weight)
    return once * int(weight) + [replace(part, fraction=fraction) for part in once if fraction]


def sample_chunks(chunks: Iterable[Chunk], part: float) -> Iterator[Chunk]:
    """The same documents every time, by their hash.

    A document longer than a chunk is taken in chunks, each a document of its own; so a share of one endless text
    is a share of it too.
    """
    if part == 1:
        yield from chunks
        return
    for chunk in chunks:
        digest = hashlib.sha256(b"share\0" + chunk.text.encode()).digest()
        if int.from_bytes(digest[:8], "big") < part * 2**64:
            length = chunk.end - chunk.start
            yield replace(chunk, last=True, start=0, end=length, size=length)


def read_inputs(
    several: Iterable[Input], options: ReadOptions | None = None, counts: ReadCounts | None = None
) -> Iterator[Chunk]:
    """The documents of all inputs, each as often as its weight says, one input after another."""
    for each in several:
        for part in slice_inputs([each], WHOLE_FILE):
            yield from sample_chunks(formats.read_slice(part, options, counts), part.fraction)


def read_source(source: str) -> Iterator[Document]:
    """The documents of one source, whole, always in the same order; what is not UTF-8 is refused."""
    found = find_inputs(
        source
    )  # here, so that a source that is not there is refused before the first document is wanted
    return formats.join_chunks(read_inputs((fetch() for fetch in found), STRICT))


def source_fingerprint(sources: Iterable[str]) -> str:
    """Changes whenever the text may have changed, without reading it: names, sizes, times, hashes, versions."""
    lines = []
    for source in sources:
        bare, weight = split_weight(source)
        lines += [line if weight == 1 else f"{line} x{weight}" for line in _fingerprint_lines(bare)]
    return "\n".join(lines)


def _fingerprint_lines(source: str) -> Iterator[str]:
    if source.startswith("hf://"):
        yield from (f"{file.name} {file.size} {file.sha256 or file.blob}" for file in hub.files(source))
    elif source.startswith(("http://", "https://")):
        yield source
    elif is_url(source):
        yield from (f"{url} {size} {remote_version(url)}" for url, size in _list_remote(source))
    elif (path := user_path(source)).exists() or GLOB_CHARS.search(source):
        for file in _list_local(path):  # the files that are read, and no others
            stat = file.stat()
            yield f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    else:
        yield f"{source} {corpora.find_corpus(source).version()}"


def remote_version(url: str) -> str:
    """Changes when somebody writes there again."""
    import fsspec

    with storage_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        facts = system.info(path)
    return str(next((facts[key] for key in ("ETag", "etag", "mtime", "LastModified") if facts.get(key)), ""))
