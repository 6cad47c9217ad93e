"""Data sets on the Hub: which files an address means, and how they come."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.core.errors import UserError
from fledge.text import hub, sources
from fledge.text.download import RetryPolicy

from .conftest import File

if TYPE_CHECKING:
    from .conftest import Remote

QUICK = RetryPolicy(timeout=0.4, tries=3, pause=0.01)
AT = "hf://datasets/o/n"


def parquet(*texts: str) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": list(texts)}), held)
    return held.getvalue()


@pytest.fixture
def repo(remote: "Remote") -> "Remote":
    for number in range(5):
        remote.files[f"data/train-{number}.parquet"] = File(parquet(f"train {number}"))
    remote.files["data/test-0.parquet"] = File(parquet("test"))
    remote.files["data/deep/train-9.parquet"] = File(parquet("deep"))
    remote.files["README.md"] = File(b"# n\n", large=False)
    remote.files[".gitattributes"] = File(b"*.parquet lfs\n", large=False)
    return remote


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/data/train-3.parquet", ["data/train-3.parquet"]),
        ("/data/train-*.parquet", [f"data/train-{n}.parquet" for n in range(5)]),
        ("/data/train-[13].parquet", ["data/train-1.parquet", "data/train-3.parquet"]),
        ("/data/train-[!1-4].parquet", ["data/train-0.parquet"]),
        ("/**/train-9.parquet", ["data/deep/train-9.parquet"]),
        ("/**/train-?.parquet", ["data/deep/train-9.parquet", *(f"data/train-{n}.parquet" for n in range(5))]),
        ("/data/deep", ["data/deep/train-9.parquet"]),
        ("@main/README.md", ["README.md"]),
    ],
)
def test_an_address_means_a_file_a_folder_or_a_glob_over_all_pages(repo: "Remote", path: str, found: list[str]) -> None:
    assert [file.place.path for file in hub.dataset_files(AT + path, QUICK)] == found


def test_a_repository_without_a_path_means_all_its_texts(repo: "Remote") -> None:
    assert len(hub.dataset_files(AT, QUICK)) == 8


@pytest.mark.parametrize(
    ("url", "repository", "revision", "path"),
    [
        ("hf://datasets/o/n", "o/n", "main", ""),
        ("hf://datasets/o/n@v1/a/b.txt", "o/n", "v1", "a/b.txt"),
        ("hf://datasets/o/n@refs/convert/parquet/x/*.parquet", "o/n", "refs/convert/parquet", "x/*.parquet"),
        ("hf://datasets/o/n@refs%2Fpr%2F1/x", "o/n", "refs/pr/1", "x"),
    ],
)
def test_an_address_is_taken_apart(url: str, repository: str, revision: str, path: str) -> None:
    assert hub.parse(url) == hub.HubPath(repository, revision, path)


@pytest.mark.parametrize("url", ["hf://o/n", "hf://datasets/o", "hf://datasets/../x", "hf://models/o/n/x"])
def test_what_is_no_address_of_a_data_set_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="no data set on the Hub"):
        sources.fetch_inputs(url)


def test_the_texts_of_a_glob_are_read_in_order(repo: "Remote") -> None:
    texts = [d.text for d in sources.read_source(AT + "/data/train-*.parquet")]
    assert texts == [f"train {n}" for n in range(5)]


def test_only_what_is_wanted_is_downloaded(repo: "Remote") -> None:
    assert next(sources.read_source(AT + "/data/train-*.parquet")).text == "train 0"
    assert sum(path.startswith("/datasets/") for path, _ in repo.asked) == 1


def test_what_was_fetched_before_needs_no_network(repo: "Remote", monkeypatch: pytest.MonkeyPatch) -> None:
    source = AT + "/data/train-*.parquet"
    first = [d.text for d in sources.read_source(source)]
    endpoint = repo.address
    repo.shutdown()
    repo.server_close()
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert [d.text for d in sources.read_source(source)] == first


def test_a_new_version_of_a_file_is_another_file(repo: "Remote") -> None:
    source = AT + "/data/train-0.parquet"
    before = sources.source_fingerprint([source])
    assert [d.text for d in sources.read_source(source)] == ["train 0"]
    repo.files["data/train-0.parquet"] = File(parquet("new"))
    assert [d.text for d in sources.read_source(source)] == ["new"]
    assert sources.source_fingerprint([source]) != before


@pytest.mark.parametrize("large", [True, False], ids=["sha256", "blob"])
def test_a_file_whose_hash_is_wrong_is_refused(repo: "Remote", large: bool, tmp_path: Path) -> None:
    bad = File(b'{"text": "x"}\n', large=large, hash="0" * 64)
    repo.files["bad.jsonl"] = bad
    listed = hub.dataset_files(AT + "/bad.jsonl", QUICK)
    bad.content = bad.content.replace(b"x", b"y")
    with pytest.raises(UserError, match="sent something else"):
        hub.download_file(listed[0], QUICK)
    assert not list((tmp_path / "cache").rglob("bad.jsonl"))


def test_a_file_of_another_length_than_listed_is_refused(repo: "Remote") -> None:
    repo.files["bad.jsonl"] = File(b'{"text": "x"}\n', announced=99)
    with pytest.raises(UserError, match="not the 99 that were announced"):
        sources.fetch_inputs(AT + "/bad.jsonl")


@pytest.mark.parametrize(
    ("path", "words"),
    [("/data/none-*.parquet", "data/test-0.parquet"), ("@v9/data/train-0.parquet", "revision"), ("/none/x", "folder")],
)
def test_what_matches_nothing_is_refused_with_what_there_is(repo: "Remote", path: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        sources.fetch_inputs(AT + path)
    assert words in caught.value.hint


def test_a_hub_that_cannot_be_reached_is_refused_with_a_way_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="could not reach") as caught:
        sources.fetch_inputs("tinystories")
    assert "give its path" in caught.value.hint


@pytest.mark.parametrize("path", ["..", "a/.."])
def test_a_list_that_reaches_out_of_its_folder_is_refused(repo: "Remote", path: str) -> None:
    repo.files[path] = File(b"x")
    with pytest.raises(UserError, match="no repository can hold"):
        hub.dataset_files(AT, QUICK)


def test_the_files_of_a_model_are_listed_and_come_one_by_one(repo: "Remote") -> None:
    repo.files["config.json"] = File(b"{}", large=False)
    listed = {file.place.path: file for file in hub.model_files("o/n", "main", QUICK)}
    assert {"config.json", "data/deep/train-9.parquet"} <= listed.keys()
    assert hub.download_file(listed["config.json"], QUICK).read_bytes() == b"{}"
    assert [path for path, _ in repo.asked if "resolve" in path] == ["/o/n/resolve/main/config.json"]


def test_a_model_that_is_not_there_is_refused_by_name(repo: "Remote") -> None:
    with pytest.raises(UserError, match="no model 'o/n' at 'v9'"):
        hub.model_files("o/n", "v9", QUICK)
