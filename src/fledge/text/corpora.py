"""Named corpora: origin, size and licence of each.

`python` needs no network: it is the standard library of the Python that runs fledge. The others are SOURCEs
(sources.py) with the options to read them.
"""

import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fledge.core.errors import UserError, nearest
from fledge.core.files import cache_dir
from fledge.downloads.http import ExpectedFile, fetch

Files = Callable[[], Iterator[tuple[str, Callable[[], str]]]]  # name, and a function that gives the path


@dataclass(frozen=True)
class Corpus:
    """A named text. `origin` is a SOURCE, unless `files` lists the files.

    `val`, `test`: the corpora that its publishers hold out for validation and for the final test.
    """

    name: str
    about: str
    origin: str
    size: int  # bytes to download, or on this machine
    licence: str
    network: bool = True
    files: Files | None = None
    field: str = ""
    separator: str = ""
    heading: str = ""
    val: str = ""
    test: str = ""

    def version(self) -> str:
        """Changes with the text; part of the cache key of a prepared dataset."""
        return ".".join(map(str, sys.version_info[:3])) if self.name == "python" else self.origin


def find_corpus(name: str) -> Corpus:
    if name in CORPORA:
        return CORPORA[name]
    raise UserError(
        f"'{name}' is neither a file nor a named corpus",
        nearest(name, CORPORA) or f"check the path; the named corpora are: {', '.join(CORPORA)}",
    )


def held_out_corpus(name: str, split: str) -> str:
    """The corpus that is published as this split of a named corpus; '' for any other source."""
    corpus = CORPORA.get(name)
    return (corpus.val if split == "val" else corpus.test) if corpus else ""


# Left out: tests, generated tables, and what is not the library itself.
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


def python_library() -> Iterator[tuple[str, Callable[[], str]]]:
    """The modules of the standard library, sorted, with the language reference in pydoc_data/topics.py."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not SKIPPED.intersection(parts) and path.is_file():
            yield "/".join(parts), path.__str__


SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def shakespeare() -> Iterator[tuple[str, Callable[[], str]]]:
    path = cache_dir() / "downloads" / "shakespeare.txt"
    yield "shakespeare", lambda: str(fetch(SHAKESPEARE_URL, path, ExpectedFile(sha256=SHAKESPEARE_SHA256)))


WIKITEXT = "hf://datasets/Salesforce/wikitext/"
ARTICLE = r" = [^=].* = \n$"  # the rows are lines; this matches the title of an article

CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "python",
            "the standard library of the Python that runs fledge, and the language reference",
            "this machine",
            9_000_000,
            "PSF-2.0",
            network=False,
            files=python_library,
        ),
        Corpus(
            "shakespeare",
            "tiny Shakespeare: 40,000 lines of plays",
            SHAKESPEARE_URL,
            1_100_000,
            "public domain",
            files=shakespeare,
        ),
        Corpus(
            "tinystories",
            "short stories for small children, written by GPT-3.5 and GPT-4",
            "hf://datasets/roneneldan/TinyStories/data/train-*.parquet",
            1_000_000_000,
            "CDLA-Sharing-1.0",
        ),
        Corpus(
            "wikitext-103",
            "good and featured articles of English Wikipedia, one document each",
            f"{WIKITEXT}wikitext-103-raw-v1/train-*.parquet",
            314_000_000,
            "CC-BY-SA-3.0",
            heading=ARTICLE,
            val="wikitext-validation",
            test="wikitext-test",
        ),
        Corpus(
            "wikitext-2",
            "600 good and featured articles of English Wikipedia: a small wikitext-103",
            f"{WIKITEXT}wikitext-2-raw-v1/train-*.parquet",
            6_400_000,
            "CC-BY-SA-3.0",
            heading=ARTICLE,
            val="wikitext-validation",
            test="wikitext-test",
        ),
        Corpus(
            "wikitext-validation",
            "60 articles: the validation split of wikitext-2 and wikitext-103",
            f"{WIKITEXT}wikitext-103-raw-v1/validation-*.parquet",
            660_000,
            "CC-BY-SA-3.0",
            heading=ARTICLE,
        ),
        Corpus(
            "wikitext-test",
            "60 articles: the test split of wikitext-2 and wikitext-103",
            f"{WIKITEXT}wikitext-103-raw-v1/test-*.parquet",
            730_000,
            "CC-BY-SA-3.0",
            heading=ARTICLE,
        ),
        Corpus(
            "openwebtext-10k",
            "ten thousand documents of OpenWebText",
            "hf://datasets/stas/openwebtext-10k@refs/convert/parquet/**/train/*.parquet",
            30_000_000,
            "CC0-1.0",
        ),
        Corpus(
            "openwebtext",
            "web pages recommended on Reddit: an open reproduction of GPT-2's training data",
            "hf://datasets/Skylion007/openwebtext/**/train-*.parquet",
            24_000_000_000,
            "CC0-1.0",
        ),
        Corpus(
            "wikipedia-en",
            "English Wikipedia of November 2023, without markup",
            "hf://datasets/wikimedia/wikipedia/20231101.en/train-*.parquet",
            12_000_000_000,
            "CC-BY-SA-3.0",
        ),
        Corpus(
            "english-wikipedia",
            "four million articles of English Wikipedia, without markup: SmollGPT's text",
            "hf://datasets/lucadiliello/english_wikipedia/**/*.parquet",
            6_000_000_000,
            "CC-BY-SA-3.0",
            field="maintext",
        ),
        Corpus(
            "wikisource-en",
            "books, speeches and documents of English Wikisource, December 2023",
            "hf://datasets/wikimedia/wikisource/20231201.en/train-*.parquet",
            2_000_000_000,
            "CC-BY-SA-3.0",
        ),
        Corpus(
            "redpajama-sample",
            "a billion tokens of RedPajama: web, code, papers, books, questions and answers",
            "hf://datasets/togethercomputer/RedPajama-Data-1T-Sample/*_sample.jsonl",
            5_400_000_000,
            "of each source",
        ),
        Corpus(
            "fineweb-edu",
            "educational web pages: ten billion tokens of FineWeb-Edu",
            "hf://datasets/HuggingFaceFW/fineweb-edu/sample/10BT/*.parquet",
            28_000_000_000,
            "ODC-By-1.0",
        ),
    )
}
