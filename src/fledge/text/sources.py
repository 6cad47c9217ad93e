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
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import cache_dir, user_path
from fledge.downloads import http, hub
from fledge.text import corpora, formats
from fledge.text.formats import describe, is_text
from fledge.text.inputs import Chunk, Document, Input, ReadCounts, ReadOptions, Slice, is_url, storage_errors

Fetch = Callable[[], Input]  # downloads the file if necessary
WEIGHT = re.compile(r"(?P<source>.+):(?P<weight>\d+(\.\d+)?|\.\d+)")
WHOLE_FILE = sys.maxsize  # bytes: a slice that is the whole input
GLOB_CHARS = re.compile(r"[*?\[]")
STRICT = ReadOptions(errors="strict")


def fetch_inputs(source: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Input]:
    """The files of a SOURCE, downloaded and inspected. `include`, `exclude`: globs on file names."""
    return [fetch() for fetch in find_inputs(source, include, exclude)]


def find_inputs(source: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Fetch]:
    """The same, but each file is downloaded only when its function is called."""
    bare, weight = split_weight(source)
    found = _find_files(bare)
    if include or exclude:
        found = [(name, fetch) for name, fetch in found if _is_selected(name, include, exclude)]
        if not found:
            raise UserError(f"no file of '{bare}' is left after data.include and data.exclude", "loosen them")
    return [partial(_fetch_weighted, fetch, weight) for _, fetch in found]


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


def _find_files(source: str) -> list[tuple[str, Fetch]]:
    """The name of every file of a source, and the function that fetches it."""
    if source.startswith("hf://"):
        return [(file.name, partial(_from_hub, file)) for file in _hub_files(source)]
    if source.startswith(("http://", "https://")):
        return [(source, partial(_from_web, source))]
    if is_url(source):
        return [(url, partial(describe, url, url, size)) for url, size in _list_remote(source)]
    path = user_path(source)
    if path.exists() or GLOB_CHARS.search(source):
        return [(str(file), partial(describe, str(file), str(file))) for file in _list_local(path)]
    if "/" in source or path.suffix:
        raise UserError(f"no such file or folder: '{source}'", "check the path; 'fledge corpora' lists named corpora")
    return _corpus_files(corpora.find_corpus(source))


def _corpus_files(corpus: corpora.Corpus) -> list[tuple[str, Fetch]]:
    def with_options(fetch: Fetch) -> Input:
        return replace(fetch(), field=corpus.field, separator=corpus.separator, heading=corpus.heading)

    if corpus.files:
        return [(name, partial(_from_corpus, name, path)) for name, path in corpus.files()]
    return [(name, partial(with_options, fetch)) for name, fetch in _find_files(corpus.origin)]


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


def _list_local(path: Path) -> list[Path]:
    """A file; every text file below a folder; or the text files that match a glob. Sorted by path.

    Hidden and binary files are skipped, unless one is named itself.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        root, found = path, path.rglob("*")
    elif path.exists():
        raise UserError(f"'{path}' is a pipe or a device, and text is read more than once", "save it in a file first")
    elif any("**" in part != "**" for part in path.parts):
        raise UserError(f"'{path}': ** stands for whole folders", "write it between slashes: logs/**/*.txt")
    else:
        first_glob = next(i for i, part in enumerate(path.parts) if GLOB_CHARS.search(part))
        root = Path(*path.parts[:first_glob])
        found = root.glob(str(Path(*path.parts[first_glob:])))
    visible = (p for p in sorted(found) if not is_hidden(p.relative_to(root).parts))
    files = [p for p in visible if p.is_file() and is_text(p)]
    if not files and not path.is_dir():
        raise UserError(f"no text file matches '{path}'", "check the pattern; ** matches folders at any depth")
    return files


def is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)


def _is_selected(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    def matches(pattern: str) -> bool:
        return fnmatch(name, pattern) or fnmatch(name, "*/" + pattern)

    return (not include or any(map(matches, include))) and not any(map(matches, exclude))


def slice_inputs(inputs: Iterable[Input], target: int) -> list[Slice]:
    """All inputs in slices of about `target` bytes, repeated and sampled by their weights."""
    return [part for each in inputs for part in repeat_slices(formats.slice_input(each, target), each.weight)]


def repeat_slices(slices: list[Slice], weight: float) -> list[Slice]:
    """The slices of an input as often as its weight says; the last repetition may be a sample."""
    fraction = weight - int(weight)
    return slices * int(weight) + [replace(part, fraction=fraction) for part in slices if fraction]


def sample_chunks(chunks: Iterable[Chunk], fraction: float) -> Iterator[Chunk]:
    """Sample chunks by their hash: the same ones every time.

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
    for each in inputs:
        for part in slice_inputs([each], WHOLE_FILE):
            yield from sample_chunks(formats.read_slice(part, options, counts), part.fraction)


def read_source(source: str) -> Iterator[Document]:
    """The documents of one source, whole, always in the same order. Bytes that are not UTF-8 are refused."""
    found = find_inputs(source)  # not inside the generator: a missing source is refused at once
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
        yield from (f"{file.name} {file.size} {file.hash}" for file in _hub_files(source))
    elif source.startswith(("http://", "https://")):
        yield source
    elif is_url(source):
        yield from (f"{url} {size} {remote_version(url)}" for url, size in _list_remote(source))
    elif (path := user_path(source)).exists() or GLOB_CHARS.search(source):
        for file in _list_local(path):
            stat = file.stat()
            yield f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    else:
        yield f"{source} {corpora.find_corpus(source).version()}"


def remote_version(url: str) -> str:
    """Changes when the file at the URL is written again: its ETag or modification time."""
    import fsspec

    with storage_errors(url):
        system, path = fsspec.core.url_to_fs(url)
        info = system.info(path)
    return str(next((info[key] for key in ("ETag", "etag", "mtime", "LastModified") if info.get(key)), ""))
