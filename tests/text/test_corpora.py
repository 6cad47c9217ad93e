"""Named corpora."""

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.core.errors import UserError
from fledge.datasets.shards import open_dataset
from fledge.downloads import hub
from fledge.recipes.prepare import prepare
from fledge.text import corpora, formats, sources
from fledge.text.corpora import CORPORA, find_corpus
from fledge.text.formats import describe, is_readable_name
from fledge.text.inputs import Document, Slice

from .conftest import File

if TYPE_CHECKING:
    from .conftest import Remote

NAMES = {
    "python",
    "shakespeare",
    "wikitext-103",
    "wikitext-2",
    "wikitext-validation",
    "wikitext-test",
    "english-wikipedia",
    "openwebtext",
    "openwebtext-10k",
    "wikipedia-en",
    "wikisource-en",
    "redpajama-sample",
    "fineweb-edu",
    "tinystories",
}


def test_all_corpora_are_listed() -> None:
    assert set(CORPORA) == NAMES


def test_shakespeare_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "shakespeare.txt").write_text("First Citizen:\n")
    assert list(sources.read_source("shakespeare")) == [Document("shakespeare", "First Citizen:\n")]


def test_every_corpus_has_origin_and_licence() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.name == name
        assert all((corpus.about, corpus.origin, corpus.size > 0, corpus.licence, corpus.version()))


@pytest.mark.parametrize("name", sorted(name for name in NAMES if CORPORA[name].origin.startswith("hf://")))
def test_hub_corpora_have_addresses_of_readable_files(name: str) -> None:
    _, path = hub.parse_address(CORPORA[name].origin)
    assert is_readable_name(path)


def test_unknown_corpus_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        find_corpus("pyhton")
    assert "'python'" in caught.value.hint


LINES = ["", " = A duck = \n", "", " It swims . \n", " = = Food = = \n", " Bread . \n", " = Owl = \n", " It flies . \n"]
ARTICLES = [" = A duck = \n It swims . \n = = Food = = \n Bread . \n", " = Owl = \n It flies . \n"]


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_wikitext_lines_become_articles_for_any_slices(tmp_path: Path, group: int) -> None:
    file = tmp_path / "train-0.parquet"
    pq.write_table(pa.table({"text": LINES}), file, row_group_size=group)
    source = describe("w", str(file))
    options = formats.ReadOptions(heading=CORPORA["wikitext-103"].heading)
    whole = [d.text for d in formats.join_chunks(formats.read_slice(Slice(source), options))]
    sliced = [p for part in formats.slice_input(source, 1) for p in formats.read_slice(part, options)]
    assert whole == ARTICLES
    assert [d.text for d in formats.join_chunks(iter(sliced))] == ARTICLES


def test_corpus_options_apply_to_files_from_the_hub(remote: "Remote", monkeypatch: pytest.MonkeyPatch) -> None:

    held = io.BytesIO()
    pq.write_table(pa.table({"text": LINES}), held)
    remote.files["wikitext-103-raw-v1/train-0.parquet"] = File(held.getvalue())
    known = CORPORA["wikitext-103"]
    moved = corpora.Corpus(**{**vars(known), "origin": known.origin.replace("Salesforce/wikitext", "o/n")})
    monkeypatch.setitem(CORPORA, "wikitext-103", moved)
    assert [d.text for d in sources.read_source("wikitext-103")] == ARTICLES


def table(**columns: list[str]) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held)
    return held.getvalue()


def test_wikitext_is_prepared_with_its_own_splits(
    remote: "Remote", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for split, title in (("train", "Duck"), ("validation", "Owl"), ("test", "Robin")):
        lines = ["", f" = {title} = \n", " It flies . \n", f" = {title} II = \n", " It sings . \n"]
        remote.files[f"wikitext-103-raw-v1/{split}-00000-of-00001.parquet"] = File(table(text=lines))
    for name in ("wikitext-103", "wikitext-validation", "wikitext-test"):
        origin = CORPORA[name].origin.replace("Salesforce/wikitext", "o/n")
        monkeypatch.setitem(CORPORA, name, replace(CORPORA[name], origin=origin))
    settings = {"tokenizer": {"kind": "char", "end_of_text": False}}
    made = prepare(["wikitext-103"], str(tmp_path / "out"), settings)
    found = open_dataset(tmp_path / "out")
    for split, title in (("train", "Duck"), ("val", "Owl"), ("test", "Robin")):
        ids = found.splits[split].read(0, len(found.splits[split]))
        text = found.tokenizer.decode(ids.tolist())
        assert text == f" = {title} = \n It flies . \n = {title} II = \n It sings . \n"
        assert made.splits[split].documents == 2
    asked = {path for path, _ in remote.asked if "/resolve/" in path}
    assert len(asked) == 3


def test_text_of_english_wikipedia_is_its_maintext(remote: "Remote", monkeypatch: pytest.MonkeyPatch) -> None:
    remote.files["data/train-0.parquet"] = File(table(title=["Duck"], maintext=["A duck swims."]))
    known = CORPORA["english-wikipedia"]
    moved = replace(known, origin=known.origin.replace("lucadiliello/english_wikipedia", "o/n"))
    monkeypatch.setitem(CORPORA, "english-wikipedia", moved)
    assert [d.text for d in sources.read_source("english-wikipedia")] == ["A duck swims."]


@pytest.fixture(scope="module")
def library() -> list[Document]:
    return list(sources.read_source("python"))


def test_python_corpus_is_sorted_and_without_tests(library: list[Document]) -> None:
    names = [d.name for d in library]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert {"argparse.py", "pydoc_data/topics.py", "json/decoder.py"} <= set(names)
    assert not any(corpora.SKIPPED.intersection(name.split("/")) for name in names)


def test_python_corpus_has_millions_of_characters(library: list[Document]) -> None:
    assert sum(len(d.text) for d in library) > 5_000_000
