"""Builds: output that already exists, failures, concurrent builds, and the manifest."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fledge.core.errors import Interrupted, UserError
from fledge.datasets import build as room
from fledge.datasets.build import DatasetBusy, build
from fledge.datasets.executors import Task, in_process
from fledge.datasets.storage import STAGING

from .conftest import FILTERED, PARTS, Cut, idle, stopped

if TYPE_CHECKING:
    from .conftest import DatasetMaker


# Output that already exists


def test_another_dataset_is_never_overwritten(make: "DatasetMaker", poems: Path) -> None:
    whole = make(make.spec("poems"))
    with pytest.raises(UserError, match="already exists"):
        make(make.spec("poems", val=0.3))
    assert make.contents(make.spec("poems")) == whole


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "damaged", "link", "broken link"])
def test_existing_output_is_refused_and_unchanged(make: "DatasetMaker", poems: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind.endswith("link"):
        out.symlink_to(tmp_path / ("poems" if kind == "link" else "nowhere"))
    else:
        out.mkdir()
        if kind != "empty folder":
            (out / ("dataset.json" if kind == "damaged" else "mine")).write_text("{")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"out' already exists"):
        make(make.spec("poems"))
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_staging_folder_beside_unrelated_files_is_refused(make: "DatasetMaker", poems: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / STAGING).mkdir(parents=True)
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"out' contains a file that is not part of a dataset: 'thesis\.txt'"):
        make(make.spec("poems"))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("after", [0, 3, PARTS])
def test_unrelated_files_added_during_the_build_are_kept(make: "DatasetMaker", poems: Path, after: int) -> None:
    spec = make.spec("poems")
    note = Path(spec.out) / "train" / "note"

    def noting(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        note.parent.mkdir()
        note.write_text("mine")
        return stopped(after)(task, items)

    if after < PARTS:
        with pytest.raises(Cut):
            make(spec, noting)
    else:
        make(spec, noting)
    assert note.read_text() == "mine"


def test_link_to_an_unfinished_dataset_is_followed(make: "DatasetMaker", poems: Path, tmp_path: Path) -> None:
    whole = make(make.spec("poems", out="whole"))
    with pytest.raises(Cut):
        make(make.spec("poems"), stopped(2))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert make(make.spec("poems", out="link")) == whole
    assert (tmp_path / "link").is_symlink()


# Failing, and being told


def test_failure_before_the_first_part_leaves_nothing(make: "DatasetMaker", poems: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(make.spec("poems", out="new/deeper/out"), stopped(0, UserError("no", "none")))
    assert caught.value.hint == "none"
    assert not (tmp_path / "new").exists()


def test_failure_says_that_finished_parts_are_kept(make: "DatasetMaker", poems: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(make.spec("poems"), stopped(2, UserError("no", "fix it")))
    assert caught.value.hint == "fix it; finished parts are kept: run the same command to continue"


@pytest.mark.parametrize(("after", "kind"), [(0, KeyboardInterrupt), (1, Interrupted)])
def test_ctrl_c_says_how_to_continue(make: "DatasetMaker", poems: Path, after: int, kind: type[BaseException]) -> None:
    with pytest.raises(kind) as caught:
        make(make.spec("poems"), stopped(after, KeyboardInterrupt))
    if after:
        assert vars(caught.value) == {"code": 130, "resume_with": "the same command"}


@pytest.mark.parametrize(("filters", "why"), [({"min_length": 99}, "6 too short"), ({"max_length": 2}, "6 too long")])
@pytest.mark.parametrize("out", ["out", "memory://duck/out"])
def test_filters_that_drop_everything_are_refused(
    make: "DatasetMaker", poems: Path, filters: dict[str, Any], why: str, out: str
) -> None:
    spec = make.spec("poems", out=out, **filters)
    with pytest.raises(UserError, match=rf"the filters drop every document of '.*poems' \({why}\)") as caught:
        make(spec)
    assert caught.value.hint == "loosen the filters of [data]"
    assert make.contents(spec).keys() <= ({"tokenizer.json"} if "memory" in out else set())
    assert not Path(spec.out).exists()


# Two at once


def test_second_concurrent_build_is_refused(make: "DatasetMaker", poems: Path) -> None:
    whole = make(make.spec("poems", out="whole"))
    spec = make.spec("poems")

    def beside_another(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for pair in in_process(task, items):
            with pytest.raises(DatasetBusy, match=r"another fledge process is writing '.*out'"):
                build(spec, idle, None, None)  # type: ignore[arg-type]
            yield pair

    assert make(spec, beside_another) == whole


@pytest.mark.parametrize("same", [True, False])
def test_dataset_just_finished_by_another_process_is_kept(
    make: "DatasetMaker", poems: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """Between our look at the place and our claim to it."""
    theirs = make.spec("poems", **({} if same else {"val": 0.4}))
    looked = room.is_built

    def meanwhile(out: str, key: str) -> bool:
        monkeypatch.setattr(room, "is_built", looked)
        make(theirs)
        return False

    monkeypatch.setattr(room, "is_built", meanwhile)
    ours = make.spec("poems")
    if same:
        assert not build(ours, idle, None, None)  # type: ignore[arg-type]
    else:
        with pytest.raises(UserError, match="already exists"):
            build(ours, idle, None, None)  # type: ignore[arg-type]
    assert make.contents(theirs) == make(make.spec("poems", out="whole", **({} if same else {"val": 0.4})))


# The manifest


def test_manifest_counts_documents_read_and_dropped(make: "DatasetMaker", poems: Path) -> None:
    (poems / "empty.txt").write_bytes(b"")
    (poems / "odd.txt").write_bytes(b"\xef\xbb\xbfa\xff poem\r\n")
    spec = make.spec("poems", split_by="document", val=0.4, **FILTERED)
    manifest = json.loads(make(spec)["dataset.json"])
    assert manifest["key"] == spec.key
    assert (manifest["data"]["split_by"], manifest["data"]["val"]) == ("document", 0.4)
    assert manifest["read"] == {
        "documents": PARTS + 1,
        "bytes": sum(p.stat().st_size for p in poems.iterdir()),  # as stored
        "empty": 0,
        "replaced": 1,
        "nul": 0,
        "surrogates": 0,
    }
    assert manifest["dropped"] == {"duplicate": 1}
    for split in manifest["splits"].values():
        for name in ("tokens", "documents"):
            assert split[name] == sum(shard[name] for shard in split["shards"])
    assert sum(split["documents"] for split in manifest["splits"].values()) == PARTS


@pytest.mark.parametrize("name", ["train/00000.tokens", "tokenizer.json"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"{}")])
def test_damaged_dataset_is_rebuilt_by_the_same_command(
    make: "DatasetMaker", poems: Path, name: str, damage: Callable[[Path], object]
) -> None:
    whole = make(make.spec(poems))
    damage(Path(make.spec(poems).out) / name)
    assert make(make.spec(poems)) == whole
