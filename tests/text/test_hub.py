"""Files on the Hub: listing, download, cache, errors and tokens."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.core.errors import UserError
from fledge.datasets.records import read_records
from fledge.downloads import hub
from fledge.text import sources
from fledge.text.formats import is_readable_name

from .conftest import File

if TYPE_CHECKING:
    from .conftest import Remote

REPO = "hf://datasets/o/n"


def parquet(*texts: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": list(texts)}), file)
    return file.getvalue()


@pytest.fixture
def repo(remote: "Remote") -> "Remote":
    for number in range(5):
        remote.files[f"data/train-{number}.parquet"] = File(parquet(f"train {number}"))
    remote.files["data/test-0.parquet"] = File(parquet("test"))
    remote.files["data/deep/train-9.parquet"] = File(parquet("deep"))
    remote.files["README.md"] = File(b"# n\n", large=False)
    remote.files[".gitattributes"] = File(b"*.parquet lfs\n", large=False)
    return remote


def texts(source: str) -> list[str]:
    return [document.text for document in sources.read_source(source)]


def downloads(repo: "Remote") -> list[str]:
    return [path for path, _ in repo.asked if "/resolve/" in path]


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
def test_address_is_file_folder_or_glob_over_all_pages(repo: "Remote", path: str, found: list[str]) -> None:
    assert [file.path for file in hub.dataset_files(REPO + path, is_readable_name)] == found


def test_address_without_path_is_all_readable_files(repo: "Remote") -> None:
    assert len(hub.dataset_files(REPO, is_readable_name)) == 8


@pytest.mark.parametrize(
    ("url", "repository", "revision", "path"),
    [
        ("hf://datasets/o/n", "o/n", "main", ""),
        ("hf://datasets/o/n@v1/a/b.txt", "o/n", "v1", "a/b.txt"),
        ("hf://datasets/o/n@refs/convert/parquet/x/*.parquet", "o/n", "refs/convert/parquet", "x/*.parquet"),
        ("hf://datasets/o/n@refs%2Fpr%2F1/x", "o/n", "refs/pr/1", "x"),
    ],
)
def test_parse_address(url: str, repository: str, revision: str, path: str) -> None:
    assert hub.parse_address(url) == (hub.HubRepo(repository, revision), path)


@pytest.mark.parametrize("url", ["hf://o/n", "hf://datasets/o", "hf://datasets/../x", "hf://models/o/n/x"])
def test_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is not a dataset on the Hub"):
        sources.fetch_inputs(url)


def test_glob_with_stars_inside_a_name_is_refused(repo: "Remote") -> None:
    with pytest.raises(UserError, match="stands for whole folders"):
        hub.dataset_files(REPO + "/data/train**.parquet", is_readable_name)


def test_files_of_a_glob_are_read_in_order(repo: "Remote") -> None:
    assert texts(REPO + "/data/train-*.parquet") == [f"train {n}" for n in range(5)]


def test_only_files_that_are_read_are_downloaded(repo: "Remote") -> None:
    assert next(sources.read_source(REPO + "/data/train-*.parquet")).text == "train 0"
    assert len(downloads(repo)) == 1


def test_cached_files_need_no_network(repo: "Remote", monkeypatch: pytest.MonkeyPatch) -> None:
    source = REPO + "/data/train-*.parquet"
    first = texts(source)
    endpoint = repo.address
    repo.shutdown()
    repo.server_close()
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert texts(source) == first


def test_second_read_downloads_and_lists_nothing(repo: "Remote") -> None:
    texts(REPO + "/data/train-0.parquet")
    before = len(repo.asked)
    texts(REPO + "/data/train-0.parquet")
    assert [path for path, _ in repo.asked[before:]] == ["/api/datasets/o/n/revision/main"]


def test_new_commit_changes_fingerprint_and_text(repo: "Remote") -> None:
    source = REPO + "/data/train-0.parquet"
    before = sources.source_versions([source])
    assert texts(source) == ["train 0"]
    repo.files["data/train-0.parquet"] = File(parquet("new"))
    assert texts(source) == ["new"]
    assert sources.source_versions([source]) != before


@pytest.mark.parametrize("large", [True, False], ids=["sha256", "blob"])
def test_file_with_wrong_hash_is_refused_and_removed(repo: "Remote", large: bool, tmp_path: Path) -> None:
    repo.files["bad.jsonl"] = File(b'{"text": "x"}\n', large=large, announced_hash="0" * (64 if large else 40))
    with pytest.raises(UserError, match="arrived damaged: hash"):
        texts(REPO + "/bad.jsonl")
    assert not [
        path
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file() and path.read_bytes()[:1] == b"{" and path.suffix != ".json"
    ]


def test_file_of_another_length_than_listed_is_refused(repo: "Remote") -> None:
    repo.files["bad.jsonl"] = File(b'{"text": "x"}\n', announced_size=99)
    with pytest.raises(UserError, match="99"):
        sources.fetch_inputs(REPO + "/bad.jsonl")


def test_interrupted_download_is_resumed(repo: "Remote") -> None:
    content = b"a line of text\n" * 1_600_000  # huggingface_hub keeps what it has in steps of 10 MiB
    repo.files["long.txt"] = File(content, faults=["", "half"])  # of the HEAD and of the first GET
    (found,) = hub.dataset_files(REPO + "/long.txt", is_readable_name)
    assert hub.download_file(found).read_bytes() == content
    first, second = [range_ for path, range_ in repo.asked if path.endswith("long.txt")]
    assert first == ""
    assert re.fullmatch("bytes=[1-9][0-9]+-", second)


@pytest.mark.parametrize(
    ("path", "words"),
    [("/data/none-*.parquet", "data/test-0.parquet"), ("@v9/data/train-0.parquet", "revision"), ("/none/x", "folder")],
)
def test_address_without_files_is_refused_with_a_hint(repo: "Remote", path: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        sources.fetch_inputs(REPO + path)
    assert words in caught.value.hint


def test_missing_repository_is_refused_by_name(repo: "Remote") -> None:
    with pytest.raises(UserError, match="the Hub has no dataset 'o/other'") as caught:
        hub.dataset_files("hf://datasets/o/other", is_readable_name)
    assert "HF_TOKEN" in caught.value.hint


def test_unreachable_hub_is_refused_with_an_alternative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"could not reach http://127\.0\.0\.1:1") as caught:
        sources.fetch_inputs("tinystories")
    assert "give its path" in caught.value.hint


@pytest.mark.parametrize("path", ["..", "a/..", "a/../../b.txt"])
def test_listing_with_a_path_outside_is_refused(repo: "Remote", path: str) -> None:
    repo.files[path] = File(b"x")
    with pytest.raises(UserError, match="outside the repository"):
        hub.dataset_files(REPO, is_readable_name)


def test_model_files_are_listed_and_downloaded_one_by_one(repo: "Remote") -> None:
    repo.files["config.json"] = File(b"{}", large=False)
    found = {file.path: file for file in hub.model_files("o/n", "main")}
    assert {"config.json", "data/deep/train-9.parquet"} <= found.keys()
    assert hub.download_file(found["config.json"]).read_bytes() == b"{}"
    assert downloads(repo) == [f"/o/n/resolve/{repo.commit}/config.json"]


def test_missing_model_revision_is_refused_by_name(repo: "Remote") -> None:
    with pytest.raises(UserError, match="no model 'o/n' at revision 'v9'"):
        hub.model_files("o/n", "v9")


# Tokens


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_gated_repository_asks_for_a_login(repo: "Remote", monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    repo.gated = True
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match="access to the dataset 'o/n' on the Hub is restricted") as caught:
        texts(REPO + "/data/train-0.parquet")
    assert "'hf auth login', or set HF_TOKEN" in caught.value.hint


def test_gated_repository_is_read_with_a_token(repo: "Remote", monkeypatch: pytest.MonkeyPatch) -> None:
    repo.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert texts(REPO + "/data/train-0.parquet") == ["train 0"]


def test_token_is_not_sent_to_the_host_of_a_redirect(
    repo: "Remote", other_host: "Remote", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    content = parquet("from the CDN")
    repo.files["moved.parquet"] = File(content, redirect=f"{other_host.address}/moved")
    other_host.files["/moved"] = File(content)
    assert texts(REPO + "/moved.parquet") == ["from the CDN"]
    assert set(repo.tokens) == {"Bearer hf_right"}
    assert set(other_host.tokens) == {""}


def test_examples_are_read_from_the_files_that_hold_records(remote: "Remote") -> None:
    for name, data in {"a.json": b'[{"prompt": "a"}]', "b.jsonl": b'{"prompt": "b"}\n', "README.md": b"# n\n"}.items():
        remote.files[name] = File(data, large=False)
    found = [(record.place, record.values["prompt"]) for record in read_records(REPO)]
    assert found == [(f"'{REPO}/a.json' example 1", "a"), (f"'{REPO}/b.jsonl' line 1", "b")]
