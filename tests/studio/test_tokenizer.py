"""The page Tokenizer and its routes."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fledge.studio.routes.tokenizer import GPT2, MOST_TOKENS, open_gpt2
from fledge.tokenizers.base import END_OF_TEXT, load_tokenizer, save_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer

from .conftest import RunningStudio, running_studio

LEARNED = "the duck and the other duck read the long letter 🙂 שלום " * 30


@pytest.fixture(scope="module")
def runs(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` with its characters, `words` with byte-level BPE, and `again` with the same."""
    folder = tmp_path_factory.mktemp("tokenizers") / "runs"
    for name in ("tiny", "words", "again"):
        shutil.copytree(trained_runs / "tiny", folder / name, ignore=shutil.ignore_patterns("checkpoints"))
    bpe = BpeTokenizer.train([LEARNED], 290, END_OF_TEXT)
    for name in ("words", "again"):
        save_tokenizer(bpe, folder / name / "tokenizer.json")
        metadata = folder / name / "run.json"
        metadata.write_text(metadata.read_text().replace('"tokenizer.json": "', '"tokenizer.json": "of-bpe'))
    return folder


@pytest.fixture(scope="module")
def here(runs: Path) -> Iterator[RunningStudio]:
    with running_studio(runs) as running:
        yield running


def split(studio: RunningStudio, tokenizer: str, text: str) -> Any:
    return studio.post("tokenizer/split", {"tokenizer": tokenizer, "text": text})


def test_each_tokenizer_is_listed_once(here: RunningStudio) -> None:
    listed = here.get("tokenizer").json()
    assert sorted(sorted(each["runs"]) for each in listed if each["name"] != GPT2) == [["again", "words"], ["tiny"]]


def test_split_gives_the_ids_of_the_tokenizer(here: RunningStudio, runs: Path) -> None:
    tokenizer = load_tokenizer(runs / "words" / "tokenizer.json")
    for text in ("the duck", "", "🙂 שלום\n\t<b>x</b>", "<|endoftext|>"):
        answer = split(here, "words", text).json()
        assert [token["id"] for token in answer["tokens"]] == tokenizer.encode(text).tolist()
        assert (answer["kind"], answer["merges"], answer["characters"]) == ("bpe", True, len(text))


def test_a_megabyte_is_counted_whole_and_shown_in_part(here: RunningStudio, runs: Path) -> None:
    text = (LEARNED * 700)[:1_000_000]
    answer = split(here, "words", text).json()
    assert answer["total"] == len(load_tokenizer(runs / "words" / "tokenizer.json").encode(text))
    assert len(answer["tokens"]) == MOST_TOKENS


@pytest.mark.skipif("FLEDGE_TEST_DATA" not in os.environ, reason="FLEDGE_TEST_DATA names no folder with gpt2/")
def test_gpt2_is_offered_where_its_files_are(
    here: RunningStudio, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(os.environ["FLEDGE_TEST_DATA"]) / "gpt2"))
    request.addfinalizer(open_gpt2.cache_clear)  # other tests have no such files
    assert here.get("tokenizer").json()[-1] == {"name": GPT2, "runs": [], "vocab_size": 50257}
    assert [token["id"] for token in split(here, GPT2, "Hello world").json()["tokens"]] == [15496, 995]


def test_merges_end_at_the_tokens(here: RunningStudio, runs: Path) -> None:
    tokenizer = load_tokenizer(runs / "words" / "tokenizer.json")
    answer = here.post("tokenizer/merges", {"tokenizer": "words", "text": "the duck 🙂"}).json()
    words = [[token["id"] for token in word] for word in answer["start"]]
    for merge in answer["merges"]:
        words[merge["word"]][merge["position"] : merge["position"] + 2] = [merge["token"]]
    assert [i for word in words for i in word] == tokenizer.encode("the duck 🙂").tolist()
    assert answer["words"] == ["the", " duck", " 🙂"]
    one = here.post("tokenizer/merges", {"tokenizer": "words", "text": "the duck", "word": 1}).json()
    assert len(one["start"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("tokenizer/split", {"tokenizer": "tiny", "text": "日"}, "not in the vocabulary"),
        ("tokenizer/split", {"tokenizer": "absent", "text": "a"}, "no run 'absent'"),
        ("tokenizer/split", {"text": "a"}, "tokenizer"),
        ("tokenizer/merges", {"tokenizer": "tiny", "text": "a"}, "no merges"),
        ("tokenizer/merges", {"tokenizer": "words", "text": "a b", "word": 9}, "no word 9"),
        ("tokenizer/merges", {"tokenizer": "words", "text": "a", "word": -1}, "word"),
    ],
)
def test_bad_requests_are_answered_in_words(here: RunningStudio, path: str, body: dict[str, Any], said: str) -> None:
    answer = here.post(path, body)
    assert answer.status_code == 400
    assert said in answer.text


def test_half_a_surrogate_pair_is_no_defect(here: RunningStudio) -> None:
    content = json.dumps({"tokenizer": "words", "text": "a\ud800"})
    answer = here.client().post("/api/tokenizer/split", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400)


def test_vocabulary_is_searched_and_paged(here: RunningStudio) -> None:
    page = here.get("tokenizer/vocabulary", tokenizer="words", search="duck", limit=1).json()
    assert page["found"] >= 1
    assert "duck" in page["entries"][0]["text"]
    rest = here.get("tokenizer/vocabulary", tokenizer="words", offset=289).json()
    assert [entry["id"] for entry in rest["entries"]] == [289]
    assert here.get("tokenizer/vocabulary", tokenizer="words", limit=0).status_code == 400


def test_page_splits_compares_and_steps(page: Any, here: RunningStudio, runs: Path) -> None:
    tokenizer = load_tokenizer(runs / "words" / "tokenizer.json")
    page.goto(here.first_url)
    page.goto(f"{here.url}/#/tokenizer?run=words&other=tiny")
    text = "the duck 🙂 <img src=x onerror=alert(1)>\nשלום"
    page.get_by_label("Text to split").fill(text)
    tokens = page.locator(".tokenizer-panel").first.locator("[role=option]")
    ids = tokenizer.encode(text).tolist()
    shown = "n => document.querySelector('.tokens')?.querySelectorAll('[role=option]').length === n"
    page.wait_for_function(shown, arg=len(ids))
    page.get_by_text("Ids", exact=True).click()
    assert [int(each) for each in tokens.all_inner_texts()] == ids
    assert "not in the vocabulary" in page.locator(".tokenizer-panel").nth(1).inner_text()
    tokens_list = page.get_by_role("listbox").first
    tokens_list.focus()
    page.keyboard.press("End")
    assert f"{len(ids)} of {len(ids)}" in page.locator(".token-details").first.inner_text()
    page.keyboard.press("Escape")
    assert "arrow keys" in page.locator(".token-details").first.inner_text()
    slider = page.get_by_label("Step", exact=True)
    assert len(page.locator(".merge-words .byte").all()) == len(ids)
    slider.focus()
    page.keyboard.press("Home")
    assert len(page.locator(".merge-words .byte").all()) == len(text.encode())
    page.get_by_role("button", name="Next").click()
    assert len(page.locator(".merge-words .byte").all()) == len(text.encode()) - 1
    page.get_by_label("Search").fill("duck")
    page.get_by_role("status").filter(has_text="of 290 tokens").wait_for()
