"""SOURCE → documents: files, folders, names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fledge.core.errors import UserError
from fledge.text import sources
from fledge.text.formats import read_slice
from fledge.text.inputs import ReadCounts, ReadOptions
from fledge.text.source_text import open_sources

if TYPE_CHECKING:
    from .conftest import Remote


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    held = tmp_path / "texts"
    for name, content in {"b.txt": b"B", "a/z.md": b"Z", "a/.hidden": b"H", ".git/x": b"X", "p.bin": b"\0"}.items():
        (held / name).parent.mkdir(parents=True, exist_ok=True)
        (held / name).write_bytes(content)
    return held


def test_folder_gives_its_text_files_sorted_by_path(folder: Path) -> None:
    assert [d.text for d in sources.read_source(str(folder))] == ["Z", "B"]


def test_hidden_and_binary_files_in_a_folder_are_skipped(folder: Path) -> None:
    names = [Path(d.name).name for d in sources.read_source(str(folder))]
    assert names == ["z.md", "b.txt"]


def test_several_sources_keep_their_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text("F")
    texts = [chunk.text for chunk in open_sources([str(tmp_path / "first.txt"), str(folder)]).chunks()]
    assert texts == ["F", "Z", "B"]


def test_path_takes_precedence_over_a_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("a snake")
    monkeypatch.chdir(tmp_path)
    assert [d.text for d in sources.read_source("python")] == ["a snake"]


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("at home")
    assert [d.text for d in sources.read_source("~/mine.txt")] == ["at home"]


@pytest.mark.parametrize("source", ["nowhere/", "absent.txt", "./absent"])
def test_missing_path_is_refused_by_name(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        sources.read_source(source)
    assert f"'{source}'" in caught.value.message


def test_misspelt_corpus_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        sources.read_source("shakspere")
    assert "shakespeare" in caught.value.hint


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"]])
def test_empty_text_is_refused(tmp_path: Path, texts: list[str]) -> None:
    held = tmp_path / "held"
    held.mkdir()
    for number, text in enumerate(texts):
        (held / f"{number}.txt").write_text(text)
    with pytest.raises(UserError, match=r"no text in .*held"):
        open_sources([str(held)])


def test_fingerprint_is_stable(folder: Path) -> None:
    assert sources.source_versions([str(folder)]) == sources.source_versions([str(folder)])


def test_fingerprint_changes_with_size_time_or_a_new_file(folder: Path) -> None:
    seen = {*sources.source_versions([str(folder)])}
    (folder / "b.txt").write_text("BB")
    seen.update(sources.source_versions([str(folder)]))
    os.utime(folder / "b.txt", ns=(1, 1))
    seen.update(sources.source_versions([str(folder)]))
    (folder / "c.txt").write_text("C")
    seen.update(sources.source_versions([str(folder)]))
    assert len(seen) == 4


def test_fingerprint_of_a_corpus_depends_on_its_version() -> None:
    assert sources.source_versions(["python"]) != sources.source_versions(["shakespeare"])


@pytest.mark.parametrize(
    ("pattern", "texts"), [("*.txt", ["B"]), ("**/*.md", ["Z"]), ("**/*", ["Z", "B"]), ("[ab].txt", ["B"])]
)
def test_glob_gives_matching_files_sorted(folder: Path, pattern: str, texts: list[str]) -> None:
    assert [d.text for d in sources.read_source(f"{folder}/{pattern}")] == texts


def test_glob_without_match_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no text file matches .*\*\.doc"):
        sources.read_source(f"{folder}/*.doc")


def test_include_and_exclude_select_files(folder: Path) -> None:
    def names(**chosen: list[str]) -> list[str]:
        return [Path(source.name).name for source in sources.fetch_inputs(str(folder), **chosen)]  # type: ignore[arg-type]

    assert names(include=["*.md"]) == ["z.md"]
    assert names(exclude=["a/*"]) == ["b.txt"]
    assert names(include=["*.md", "*.txt"], exclude=["z.*"]) == ["b.txt"]
    with pytest.raises(UserError, match="no file of"):
        names(include=["*.rst"])


def test_web_address_is_downloaded_once(remote: "Remote") -> None:
    from .conftest import File

    remote.files["/book.txt"] = File("Käse".encode())
    for _ in range(2):
        assert [d.text for d in sources.read_source(remote.address + "/book.txt")] == ["Käse"]
    assert len(remote.asked) == 1


def test_binary_file_that_is_named_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="binary"):
        list(sources.read_source(str(folder / "p.bin")))


def test_weight_is_distinguished_from_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log:12").write_text("a file with a colon")
    assert sources.split_weight("wikipedia-en:0.3") == ("wikipedia-en", 0.3)
    assert sources.split_weight("hf://datasets/o/n/a.txt:2") == ("hf://datasets/o/n/a.txt", 2.0)
    assert sources.split_weight("log:12") == ("log:12", 1.0)
    assert sources.split_weight("http://localhost:8000") == ("http://localhost:8000", 1.0)
    assert sources.split_weight("C:stuff") == ("C:stuff", 1.0)
    assert [d.text for d in sources.read_source("log:12")] == ["a file with a colon"]
    with pytest.raises(UserError, match="is out of range"):
        sources.split_weight("python:0")


@pytest.fixture
def many(tmp_path: Path) -> str:
    file = tmp_path / "many.txt"
    file.write_text("\n".join(f"line {n}" for n in range(4000)))
    return str(file)


def taken(source: str) -> list[str]:
    return [chunk.text for chunk in sources.read_inputs(sources.fetch_inputs(source), ReadOptions(separator="\n"))]


def test_samples_are_reproducible_and_nested(many: str) -> None:
    third, half = taken(many + ":0.3"), taken(many + ":0.5")
    assert third == taken(many + ":0.3")
    assert set(third) < set(half)
    assert abs(len(third) / 4000 - 0.3) < 0.03


def test_weight_above_one_repeats(many: str) -> None:
    whole, more = taken(many), taken(many + ":2.5")
    assert more[:8000] == whole * 2
    assert more[8000:] == taken(many + ":.5")


def test_weighted_sources_are_read_one_after_another(many: str, folder: Path) -> None:
    several = [*sources.fetch_inputs(str(folder) + ":2"), *sources.fetch_inputs(many + ":0.1")]
    counts = ReadCounts()
    texts = [chunk.text for chunk in sources.read_inputs(several, ReadOptions(separator="\n"), counts)]
    assert texts == ["Z", "Z", "B", "B", *taken(many + ":0.1")]


@pytest.mark.parametrize("share", [0.08, 0.1, 0.25])
def test_large_text_is_sampled_by_whole_slices_from_all_over_it(tmp_path: Path, share: float) -> None:
    path = tmp_path / "large.txt"
    path.write_text("".join(f"line {number:07}\n" for number in range(4_000_000)))
    source = str(path)
    (whole,), (part,) = (list(sources.fetch_inputs(source + end)) for end in ("", f":{share}"))
    slices = sources.slice_inputs([whole], 1 << 20, ReadOptions())
    chosen = sources.slice_inputs([part], 1 << 20, ReadOptions())
    assert len(chosen) == round(share * len(slices))
    starts = [each.start for each in slices]
    places = [starts.index(each.start) for each in chosen]
    assert places == sorted(set(places))
    gaps = [after - before for before, after in zip([-1, *places], [*places, len(slices)], strict=True)]
    assert max(gaps) <= 1 / share + 1
    assert all(each.alone for each in chosen)
    few = sources.slice_inputs([part], 16 << 20, ReadOptions())
    assert [each.fraction for each in few] == [pytest.approx(share)] * 4  # sampled chunk by chunk


def test_small_share_of_many_files_is_whole_files_from_all_over_them(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"file {number}\nsecond line")
    (tmp_path / "large.txt").write_text("line\n" * 9_000_000)  # its own share is large
    files = [*sources.fetch_inputs(f"{tmp_path}:0.1")]
    chosen = sources.thin_files(files)
    assert [each.weight for each in chosen] == [1.0] * 20 + [0.1]
    assert [int(Path(each.name).stem) for each in chosen[:-1]] == list(range(5, 200, 10))
    assert sources.thin_files([]) == []
    assert sources.thin_files(few := files[:100]) == few  # ten files of a tenth: documents are sampled
    half = sources.fetch_inputs(f"{tmp_path}:0.5")
    assert sources.thin_files(half) == half
    opened = open_sources([f"{tmp_path}:0.1"])
    assert len(opened.inputs) == 21


def test_slice_of_a_long_document_becomes_a_document(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("".join(f"line {number:07}\n" for number in range(400_000)))
    [source] = sources.fetch_inputs(str(tmp_path / "long.txt"))
    middle = sources.slice_inputs([source], 1 << 20, ReadOptions())[2]
    chunks = list(sources.as_document(read_slice(middle), middle.size))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.start for chunk in chunks] == [0, *(chunk.end for chunk in chunks[:-1])]
    assert {chunk.size for chunk in chunks} == {middle.size}
    assert abs(chunks[-1].end - middle.size) < 64 << 10
    assert list(sources.as_document([], 0)) == []


def test_weight_changes_the_fingerprint(many: str) -> None:
    assert len({sources.source_versions([many + end])[0] for end in ("", ":2", ":0.5")}) == 3


def test_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe"):
        sources.find_files(str(tmp_path / "pipe"))


def test_double_star_inside_a_name_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="stands for whole folders") as refusal:
        sources.find_files(f"{folder}/**.txt")
    assert "**/*.txt" in refusal.value.hint
