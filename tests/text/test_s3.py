"""s3:// through fsspec, against a local S3 server."""

import pytest

from fledge.core.errors import UserError
from fledge.text import formats, sources
from fledge.text.inputs import Slice

HELD = {
    "texts/a.txt": "ä first\n" * 3000,
    "texts/deep/b.jsonl": '{"text": "one"}\n{"text": "two"}\n',
    "texts/.hidden.txt": "no",
}


@pytest.fixture(scope="module", autouse=True)
def held(bucket: str) -> None:
    import s3fs

    for key, text in HELD.items():
        s3fs.S3FileSystem().pipe(f"duck/{key}", text.encode())


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/texts/a.txt", ["a.txt"]),
        ("/texts", ["a.txt", "b.jsonl"]),
        ("/texts/*.txt", ["a.txt"]),
        ("/**/*.jsonl", ["b.jsonl"]),
    ],
)
def test_file_folder_and_glob_are_listed_in_order(bucket: str, path: str, names: list[str]) -> None:
    found = sources.fetch_inputs(bucket + path)
    assert [source.name.rpartition("/")[2] for source in found] == names
    assert all(source.name.startswith("s3://duck/texts/") and source.size for source in found)


def test_texts_are_read_unchanged(bucket: str) -> None:
    assert [d.text for d in sources.read_source(bucket + "/texts")] == [HELD["texts/a.txt"], "one", "two"]


def test_slices_of_s3_files_give_the_same_chunks(bucket: str) -> None:
    for source in sources.fetch_inputs(bucket + "/texts"):
        sliced = [p for part in formats.slice_input(source, 1) for p in formats.read_slice(part)]
        assert sliced == list(formats.read_slice(Slice(source)))


def test_fingerprint_changes_with_the_content(bucket: str) -> None:
    import s3fs

    before = sources.source_versions([bucket + "/texts"])
    assert before == sources.source_versions([bucket + "/texts"])
    s3fs.S3FileSystem().pipe("duck/texts/c.txt", b"more")
    assert sources.source_versions([bucket + "/texts"]) != before
    s3fs.S3FileSystem().rm("duck/texts/c.txt")


@pytest.mark.parametrize("path", ["/none.txt", "/none/*.txt", "-missing/x.txt"])
def test_missing_s3_path_is_refused_by_address(bucket: str, path: str) -> None:
    with pytest.raises(UserError) as caught:
        sources.fetch_inputs(bucket + path)
    assert bucket + path in caught.value.message


def test_unknown_url_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="nowhere://x"):
        sources.fetch_inputs("nowhere://x/y.txt")
