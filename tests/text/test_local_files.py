"""The files of a folder: text, skipped by kind, and what is not text although it is made of some."""

import json
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.datasets.shards import MANIFEST
from fledge.runs.run_folder import METADATA
from fledge.text.local_files import MANIFESTS, list_local
from fledge.text.source_text import open_sources

FILES = {
    "a.md": b"A",
    "b/c.txt": b"C",
    "b/d.md": b"\xff\xfeD\0",
    "noname": b"N",
    "x.pdf": b"%PDF-1.4 no NUL here",
    "y.pdf": b"%PDF-1.4 \0",
    "z.PNG": b"\x89PNG\0",
    "binary": b"\x7fELF\0\0",
    "e.txt": b"",
    ".git/config": b"G",
    ".hidden": b"H",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_skipped_files_are_counted_by_kind(tmp_path: Path) -> None:
    files = open_sources([str(write(tmp_path / "notes", FILES))]).files
    assert files.read == {"md": 2, "txt": 2}
    assert files.skipped == {"pdf": 2, "png": 1, "binary": 1, "empty": 1, "hidden": 2}
    assert files.encodings == {"UTF-16": 1}
    assert files.line() == (
        "read 4 files (2 md, 2 txt); skipped 7: 2 hidden, 2 pdf, 1 binary, 1 empty, 1 png; 1 file read as UTF-16"
    )
    assert files.advice() == ["hint: text of pdf files: pdftotext FILE.pdf FILE.txt"]


def test_files_that_include_and_exclude_leave_out_are_not_counted(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "notes", FILES))
    assert open_sources([folder], include=["*.md", "*.pdf"]).files.skipped == {"pdf": 2}
    assert open_sources([folder], exclude=["*.pdf", ".*", "*/.*", "*/.git/*"]).files.skipped == {
        "png": 1,
        "binary": 1,
        "empty": 1,
    }


def test_folder_without_text_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_sources([str(write(tmp_path / "scans", {"x.pdf": b"%PDF-1.4", "y.png": b"\0"}))])
    assert caught.value.hint.endswith("skipped: 1 pdf, 1 png")


@pytest.mark.parametrize(("name", "hint"), [("x.pdf", "pdftotext"), ("z.PNG", "give a text file")])
def test_binary_file_that_is_named_is_refused(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UserError, match="a binary file, not text") as caught:
        open_sources([str(write(tmp_path, FILES) / name)])
    assert hint in caught.value.hint


def test_manifests_are_those_that_fledge_writes() -> None:
    assert set(MANIFESTS) == {MANIFEST, METADATA}


@pytest.mark.parametrize(
    ("files", "error", "hint"),
    [
        ({"dataset.json": b'{"format": 1}', "tokenizer.json": b"{}"}, "is a dataset, not text", "fledge train '"),
        ({"run.json": b'{"format": 1}', "config.toml": b"", "samples.md": b"s"}, "is a run, not text", "--init"),
        ({"train.bin": b"\1\0", "val.bin": b"\1\0", "readme.md": b"#"}, "token ids (.bin)", "--data.path"),
        ({"fineweb_train_000001.bin": b"\1\0"}, "token ids (.bin)", "--data.path"),
    ],
)
def test_dataset_or_run_given_as_text_is_refused(
    tmp_path: Path, files: dict[str, bytes], error: str, hint: str
) -> None:
    folder = write(tmp_path / "my data", files)
    with pytest.raises(UserError) as caught:
        list_local(folder)
    assert error in caught.value.message
    assert hint in caught.value.hint
    assert "'my data'" in caught.value.hint or "my data'" in caught.value.hint


def test_manifest_given_as_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"dataset.json": b'{"format": 1}'})
    with pytest.raises(UserError, match="is a dataset"):
        list_local(tmp_path / "dataset.json")


def test_other_files_of_the_same_name_are_text(tmp_path: Path) -> None:
    folder = write(tmp_path / "notes", {"dataset.json": json.dumps([1, 2]).encode(), "run.json": b"{}"})
    assert len(list_local(folder).files) == 2


def test_files_of_a_dataset_inside_the_text_are_skipped(tmp_path: Path) -> None:
    dataset = {"made/dataset.json": b'{"format": 1}', "made/train/0.tokens": b"F", "made/tokenizer.json": b"{}"}
    found = list_local(write(tmp_path / "notes", {"a.md": b"A", "run/run.json": b'{"format": 1}', **dataset}))
    assert [file.name for file in found.files] == ["a.md"]
    assert sorted(kind for _, kind in found.skipped) == ["of a dataset"] * 3 + ["of a run"]
