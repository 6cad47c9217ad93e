"""SOURCE → documents: files, folders, names."""

import os
from pathlib import Path

import pytest

from fledge.base.errors import UserError
from fledge.text import sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    held = tmp_path / "texts"
    for name, content in {"b.txt": b"B", "a/z.md": b"Z", "a/.hidden": b"H", ".git/x": b"X", "p.bin": b"\0"}.items():
        (held / name).parent.mkdir(parents=True, exist_ok=True)
        (held / name).write_bytes(content)
    return held


def test_a_folder_gives_its_text_files_in_the_order_of_their_paths(folder: Path) -> None:
    assert [d.text for d in sources.read(str(folder))] == ["Z", "B"]


def test_hidden_and_binary_files_in_a_folder_are_passed_over(folder: Path) -> None:
    names = [Path(d.name).name for d in sources.read(str(folder))]
    assert names == ["z.md", "b.txt"]


def test_several_sources_keep_the_order_in_which_they_were_given(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text("F")
    texts = [d.text for d in sources.read_all([str(tmp_path / "first.txt"), str(folder)])]
    assert texts == ["F", "Z", "B"]


def test_a_path_wins_over_a_corpus_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("a snake")
    monkeypatch.chdir(tmp_path)
    assert [d.text for d in sources.read("python")] == ["a snake"]


def test_a_home_folder_can_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("at home")
    assert [d.text for d in sources.read("~/mine.txt")] == ["at home"]


@pytest.mark.parametrize("source", ["nowhere/", "absent.txt", "./absent"])
def test_a_path_that_is_not_there_is_refused_by_name(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        sources.read(source)
    assert f"'{source}'" in caught.value.message


def test_a_misspelt_corpus_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError) as caught:
        sources.read("shakspere")
    assert "shakespeare" in caught.value.hint


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"]])
def test_a_text_of_nothing_is_refused(tmp_path: Path, texts: list[str]) -> None:
    held = tmp_path / "held"
    held.mkdir()
    for number, text in enumerate(texts):
        (held / f"{number}.txt").write_text(text)
    with pytest.raises(UserError, match=r"no text in .*held"):
        sources.read_all([str(held)])


def test_the_fingerprint_stays_while_the_text_stays(folder: Path) -> None:
    assert sources.fingerprint([str(folder)]) == sources.fingerprint([str(folder)])


def test_the_fingerprint_changes_with_size_time_or_a_new_file(folder: Path) -> None:
    seen = {sources.fingerprint([str(folder)])}
    (folder / "b.txt").write_text("BB")
    seen.add(sources.fingerprint([str(folder)]))
    os.utime(folder / "b.txt", ns=(1, 1))
    seen.add(sources.fingerprint([str(folder)]))
    (folder / "c.txt").write_text("C")
    seen.add(sources.fingerprint([str(folder)]))
    assert len(seen) == 4


def test_the_fingerprint_of_a_corpus_tells_its_version() -> None:
    assert sources.fingerprint(["python"]) != sources.fingerprint(["shakespeare"])
