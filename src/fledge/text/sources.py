"""SOURCE → documents, whatever SOURCE is: a named corpus, a file, or a folder.

The one door through which text enters. A path wins over a corpus of the same name.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from fledge.base.errors import UserError
from fledge.base.files import user_path
from fledge.text import corpora
from fledge.text.formats import Document, is_text, read_file


def read(source: str) -> Iterator[Document]:
    """The documents of one source, always in the same order."""
    path = user_path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.exists():
        return read_file(path)
    if "/" in source or path.suffix:
        raise UserError(f"no such file or folder: '{source}'", "check the path; 'fledge corpora' lists the named texts")
    return corpora.find(source).documents()


def read_all(sources: Iterable[str]) -> list[Document]:
    """The documents of several sources; a text of nothing is refused here, once for everyone."""
    sources = list(sources)
    documents = [document for source in sources for document in read(source)]
    if not any(document.text.strip() for document in documents):
        raise UserError(f"there is no text in {', '.join(sources)}", "give a file or folder that holds some")
    return documents


def _read_folder(folder: Path) -> Iterator[Document]:
    """Every text file below `folder`, in the order of its path; hidden and binary files are passed over."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and is_text(path):
            yield from read_file(path)


def fingerprint(sources: Iterable[str]) -> str:
    """Changes whenever the text may have changed, without reading it: names, sizes, times, versions."""
    lines = []
    for source in sources:
        path = user_path(source)
        if path.exists():
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                stat = file.stat()
                lines.append(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}")
        else:
            lines.append(f"{source} {corpora.find(source).version()}")
    return "\n".join(lines)
