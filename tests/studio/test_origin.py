"""The pages Data and Origin: documents, search, batches, and a passage with its document and its steps."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from fledge.insight.provenance import Provenance
from fledge.runs.run_folder import open_run
from fledge.studio.training_data import TrainingData

pytest.importorskip("pydivsufsort")


@pytest.fixture(autouse=True)
def cache(trained_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(trained_runs.parent / "cache"))


@pytest.fixture
def provenance(trained_runs: Path) -> Provenance:
    return Provenance(open_run("tiny", trained_runs))


@pytest.fixture
def passage(provenance: Provenance) -> tuple[str, int, list[int]]:
    """A line of a document, its number, and the steps that learned it, found by looking at every batch."""
    split = provenance.dataset.split("train")
    start = int(split.document_starts()[2])
    text = provenance.dataset.tokenizer.decode(split.read(start, 400).tolist())
    line = text.split("\n")[3]
    first, context = start + text.index(line), provenance.settings.model.context
    steps = [
        step
        for step in range(1, 41)
        if any(s.start + 1 < first + len(line) and s.start + context >= first for s in provenance.step(step))
    ]
    return line, 2, steps


def build_index(studio: Any) -> None:
    studio.post("origin/index", {"run": "tiny"})
    until = time.monotonic() + 30
    while studio.get("origin/index", run="tiny").json()["state"] != "ready":
        assert time.monotonic() < until
        time.sleep(0.05)


def test_training_data_is_opened_again_after_a_rollback(trained_runs: Path, tmp_path: Path) -> None:
    """The newest checkpoint has the same name as before, and the batches of its steps are others."""
    shutil.copytree(trained_runs / "tiny", tmp_path / "tiny")
    run, training_data = open_run("tiny", tmp_path), TrainingData()
    before = training_data.open(run)
    assert training_data.open(run) is before
    newest = max(run.checkpoints.iterdir())
    os.utime(newest, ns=(1, 1))
    assert training_data.open(run) is not before


def test_documents_are_read_in_pages(studio: Any, provenance: Provenance) -> None:
    split, tokenizer = provenance.dataset.split("train"), provenance.dataset.tokenizer
    info = studio.get("data", run="tiny").json()
    assert (info["splits"][0]["name"], info["splits"][0]["tokens"]) == ("train", len(split))
    found = studio.get("data/documents", run="tiny", first=1, count=2).json()
    assert (found["total"], [each["number"] for each in found["documents"]]) == (4, [1, 2])
    about = found["documents"][0]
    assert about["beginning"] == tokenizer.decode(split.read(about["start"], 60).tolist())
    pages = [studio.get("data/document", run="tiny", number=1, offset=at, count=700).json() for at in (0, 700, 1400)]
    text = "".join(token for page in pages for token in page["tokens"])
    assert text == tokenizer.decode(split.read(about["start"], about["tokens"]).tolist())


def test_batch_of_a_step_is_what_it_learned_from(studio: Any, provenance: Provenance) -> None:
    page = studio.get("data/batch", run="tiny", step=7, ranks=4, first=2, count=3).json()
    expected = provenance.step(7, ranks=4)[2:5]
    assert (page["batch"], page["ranks"]) == (8, [1, 2, 4, 8])
    assert ["".join(each["tokens"]) for each in page["samples"]] == [each.text for each in expected]
    assert [(each["number"], each["rank"]) for each in page["samples"]] == [(e.number, e.rank) for e in expected]
    for each, sample in zip(page["samples"], expected, strict=True):
        assert (each["documents"][0], each["documents"][-1]) == sample.documents


@pytest.mark.parametrize(
    ("path", "parameters", "words"),
    [
        ("data/document", {"number": 4}, "there is no document 4"),
        ("data/documents", {"split": "test"}, "no 'test' split"),
        ("data/batch", {"step": 41}, "this run has steps 1 to 40"),
        ("data/batch", {"step": 1, "ranks": 3}, "cannot be 3"),
        ("data/search", {"text": ""}, "0 characters"),
        ("data", {"run": "../tiny"}, "no run"),
        ("origin/losses", {"position": 10**9, "length": 5}, "no such passage"),
    ],
)
def test_what_there_is_not_is_said_in_words(studio: Any, path: str, parameters: dict[str, Any], words: str) -> None:
    build_index(studio)
    answer = studio.get(path, **({"run": "tiny"} | parameters))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_search_gives_the_same_with_and_without_the_index(studio: Any, passage: Any, provenance: Provenance) -> None:
    line, document, _ = passage
    build_index(studio)
    with_index, reading = (studio.get("data/search", run="tiny", text=text).json() for text in (line, line[:-1]))
    assert with_index["by_index"]
    for found in (with_index, reading):
        assert [(hit["document"], found["count"]) for hit in found["hits"]] == [(document, 1)]


def test_without_an_index_a_text_is_not_looked_up(studio: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(studio.state.training_data, "_arrays", type(studio.state.training_data._arrays)())
    monkeypatch.setattr(studio.state.training_data, "_builds", {})
    assert studio.get("origin/index", run="tiny").json()["state"] == "missing"
    answer = studio.post("origin/trace", {"run": "tiny", "text": "the lazy dog"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_index")


def test_failed_build_says_why(studio: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(studio.state.training_data, "_arrays", type(studio.state.training_data._arrays)())
    monkeypatch.setattr(studio.state.training_data, "_builds", {})
    studio.post("origin/index", {"run": "tiny"})
    until = time.monotonic() + 30
    while (state := studio.get("origin/index", run="tiny").json())["state"] == "building":
        assert time.monotonic() < until
    assert state["state"] == "failed"
    assert "not a folder" in state["problem"]


def test_passage_is_found_with_its_document_and_its_steps(studio: Any, page: Any, passage: Any) -> None:
    line, document, steps = passage
    page.goto(f"{studio.url}/#/origin?run=tiny")
    page.get_by_label("Text to look up").fill(f"<img src=x onerror=alert(1)>{line}<b>zzzz</b>")
    page.get_by_role("button", name="Look it up").click()
    page.get_by_role("heading", name="Partly copied").wait_for()
    assert page.locator("img").count() == 1  # the logo: what was looked up is shown as text
    mark = page.locator(".origin-text mark:not(.ordinary)").first
    assert line.strip() in mark.inner_text()
    assert page.get_by_role("link", name=f"document {document}, token").is_visible()
    assert page.locator(".origin-steps a").all_inner_texts() == [str(step) for step in steps][:24]
    page.locator(".origin-chart canvas").wait_for()
    assert f"{steps[0]}" in page.locator(".origin-place tbody td").first.inner_text()
    page.locator(".origin-steps a").first.click()
    page.get_by_role("tab", name="Batch of a step", selected=True).wait_for()
    assert page.get_by_label("Step", exact=True).input_value() == str(steps[0])
    page.locator(".data-sample").first.wait_for()


def test_documents_and_search_with_the_keyboard(studio: Any, page: Any, passage: Any) -> None:
    line, document, _ = passage
    page.goto(f"{studio.url}/#/data?run=tiny")
    page.get_by_role("tab", name="Documents", selected=True).focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("tab", name="Search", selected=True).wait_for()
    page.get_by_label("Exact text").fill(line)
    page.keyboard.press("Enter")
    hit = page.get_by_role("link", name=f"document {document}, token")
    hit.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Document {document}").wait_for()
    page.locator(".data-tokens .here").wait_for()
