"""The corpora that have a name: where each comes from, how large it is, under which licence.

`python` needs no network: it is the standard library of the Python that runs fledge.
"""

import hashlib
import http.client
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.base.errors import UserError, nearest
from fledge.base.files import cache_dir, write_atomic
from fledge.text.formats import Document, read_file


@dataclass(frozen=True)
class Corpus:
    name: str
    about: str
    origin: str
    size: str
    licence: str
    network: bool
    documents: Callable[[], Iterator[Document]]

    def version(self) -> str:
        """What the text depends on besides the name; part of a prepared dataset's address in the cache."""
        return ".".join(map(str, sys.version_info[:3])) if self.name == "python" else self.origin


def find(name: str) -> Corpus:
    if name in CORPORA:
        return CORPORA[name]
    raise UserError(
        f"'{name}' is neither a file nor a named corpus",
        nearest(name, CORPORA) or f"check the path; the named corpora are: {', '.join(CORPORA)}",
    )


# Not worth a model's time: tests, generated tables, and what is not the library itself.
SKIPPED = {
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "encodings",
    "turtledemo",
}


def python_library() -> Iterator[Document]:
    """The standard library's modules, in a fixed order, and the language reference in pydoc_data/topics.py."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if SKIPPED.intersection(parts) or not path.is_file():
            continue
        for document in read_file(path):
            yield Document("/".join(parts), document.text)


SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def shakespeare() -> Iterator[Document]:
    path = download(SHAKESPEARE_URL, SHAKESPEARE_SHA256, cache_dir() / "downloads" / "shakespeare.txt")
    for document in read_file(path):
        yield Document("shakespeare", document.text)


def download(url: str, sha256: str, path: Path) -> Path:
    """Fetch once; a file with another hash never gets its final name."""
    if path.exists():
        return path
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 — the URLs are the constants above
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"could not download {url}: {getattr(error, 'reason', error)}",
            "check the network, or fetch the file another way and give its path instead of the name",
        ) from None
    if (got := hashlib.sha256(content).hexdigest()) != sha256:
        raise UserError(f"{url} sent something else (sha256 {got[:12]}…, not {sha256[:12]}…)", "try again later")
    write_atomic(path, content)
    return path


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "python",
            "the standard library of the Python that runs fledge, and the language reference",
            "this machine",
            "9 MB",
            "PSF-2.0",
            network=False,
            documents=python_library,
        ),
        Corpus(
            "shakespeare",
            "tiny Shakespeare: 40,000 lines of his plays",
            SHAKESPEARE_URL,
            "1.1 MB",
            "public domain",
            network=True,
            documents=shakespeare,
        ),
    )
}
