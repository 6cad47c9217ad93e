"""The named corpora: list them, or read the beginning of one."""

from dataclasses import dataclass

from fledge.text.corpora import CORPORA, Corpus, find_corpus
from fledge.text.sources import read_source


@dataclass(frozen=True)
class CorpusPreview:
    document: str  # name of its first document
    beginning: str


def list_corpora() -> list[Corpus]:
    return list(CORPORA.values())


def preview_corpus(name: str, lines: int = 24) -> CorpusPreview:
    """The first lines of the first document of a corpus; downloads the corpus's first file if necessary."""
    first = next(read_source(find_corpus(name).name))
    return CorpusPreview(first.name, "\n".join(first.text.splitlines()[:lines]))
