"""The corpora that have a name."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.core.errors import UserError
from fledge.text import corpora, formats, hub, sources
from fledge.text.corpora import CORPORA, find_corpus
from fledge.text.formats import describe, is_readable_name
from fledge.text.inputs import Document

if TYPE_CHECKING:
    from .conftest import Remote

NAMES = {
    "python",
    "shakespeare",
    "wikitext-103",
    "openwebtext",
    "openwebtext-10k",
    "wikipedia-en",
    "wikisource-en",
    "redpajama-sample",
    "fineweb-edu",
    "tinystories",
}


def test_all_of_them_are_there() -> None:
    assert set(CORPORA) == NAMES


def test_shakespeare_is_read_from_what_was_downloaded_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "shakespeare.txt").write_text("First Citizen:\n")
    assert list(sources.read_source("shakespeare")) == [Document("shakespeare", "First Citizen:\n")]


def test_every_corpus_says_where_it_comes_from_and_under_which_licence() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.name == name
        assert all((corpus.about, corpus.origin, corpus.size, corpus.licence, corpus.version()))


@pytest.mark.parametrize("name", sorted(name for name in NAMES if CORPORA[name].origin.startswith("hf://")))
def test_every_corpus_on_the_hub_has_an_address_of_files_that_can_be_read(name: str) -> None:
    _, path = hub.parse_address(CORPORA[name].origin)
    assert is_readable_name(path)


def test_an_unknown_corpus_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError) as caught:
        find_corpus("pyhton")
    assert "'python'" in caught.value.hint


LINES = ["", " = A duck = \n", "", " It swims . \n", " = = Food = = \n", " Bread . \n", " = Owl = \n", " It flies . \n"]
ARTICLES = [" = A duck = \n It swims . \n = = Food = = \n Bread . \n", " = Owl = \n It flies . \n"]


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_the_lines_of_wikitext_become_articles_however_they_are_sliced(tmp_path: Path, group: int) -> None:
    file = tmp_path / "train-0.parquet"
    pq.write_table(pa.table({"text": LINES}), file, row_group_size=group)
    source = describe("w", str(file))
    options = formats.ReadOptions(heading=CORPORA["wikitext-103"].heading)
    whole = [d.text for d in formats.join_chunks(formats.read_input(source, options))]
    sliced = [p for part in formats.slice_input(source, 1) for p in formats.read_slice(part, options)]
    assert whole == ARTICLES
    assert [d.text for d in formats.join_chunks(iter(sliced))] == ARTICLES


def test_a_corpus_is_read_from_the_hub_the_way_it_needs(remote: "Remote", monkeypatch: pytest.MonkeyPatch) -> None:
    from .conftest import File

    held = io.BytesIO()
    pq.write_table(pa.table({"text": LINES}), held)
    remote.files["wikitext-103-raw-v1/train-0.parquet"] = File(held.getvalue())
    known = CORPORA["wikitext-103"]
    moved = corpora.Corpus(**{**vars(known), "origin": known.origin.replace("Salesforce/wikitext", "o/n")})
    monkeypatch.setitem(CORPORA, "wikitext-103", moved)
    assert [d.text for d in sources.read_source("wikitext-103")] == ARTICLES


@pytest.fixture(scope="module")
def library() -> list[Document]:
    return list(sources.read_source("python"))


def test_the_python_corpus_is_the_library_in_a_fixed_order_without_its_tests(library: list[Document]) -> None:
    names = [d.name for d in library]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert {"argparse.py", "pydoc_data/topics.py", "json/decoder.py"} <= set(names)
    assert not any(corpora.SKIPPED.intersection(name.split("/")) for name in names)


def test_the_python_corpus_is_millions_of_characters(library: list[Document]) -> None:
    assert sum(len(d.text) for d in library) > 5_000_000
