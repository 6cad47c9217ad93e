"""Builds: the same bytes after any interruption, for any executor; what is reused and what is not."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fledge.datasets import plan
from fledge.datasets.build import TOKENIZER_KEY, BuildSpec
from fledge.datasets.executors import Executor, Task, in_process, process_pool
from fledge.datasets.shards import TOKENIZER, open_dataset
from fledge.datasets.storage import STAGING, LocalStorage, Storage, open_storage
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig

from .conftest import FILTERED, PARTS, Cut, idle, stopped

if TYPE_CHECKING:
    from .conftest import DatasetMaker


def killed_after_first_part(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Raises after the first part is finished, before its result is returned."""
    task(items[0])
    raise Cut
    yield


def shuffled(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return in_process(task, random.Random(1).sample(items, len(items)))


@pytest.fixture
def letters(tmp_path: Path) -> TokenizerConfig:
    """A tokenizer that does not change with the text."""
    characters = sorted(set("a small poem: la und Käse 🦆\n"))
    save_tokenizer(CharTokenizer(characters, "<|endoftext|>"), tmp_path / "letters.json")
    return TokenizerConfig(file=str(tmp_path / "letters.json"))


# The same bytes


@pytest.mark.parametrize("data", [{}, FILTERED], ids=["as it is", "filtered"])
@pytest.mark.parametrize("executor", [process_pool(2), process_pool(1), shuffled], ids=["two", "one", "shuffled"])
def test_bytes_are_the_same_for_any_executor_and_order(
    make: "DatasetMaker", poems: Path, executor: Executor, data: dict[str, Any]
) -> None:
    alone = make(make.spec("poems", out="alone", **data))
    assert make(make.spec("poems", out="together", **data), executor) == alone


@pytest.mark.parametrize("data", [{}, {"split_by": "document", "test": 0.3, "val": 0.3}, FILTERED], ids=str)
def test_build_resumed_after_any_part_gives_the_same_bytes(
    make: "DatasetMaker", poems: Path, data: dict[str, Any]
) -> None:
    whole = make(make.spec("poems", out="whole", **data))
    rounds = len(make.made)
    assert rounds == PARTS * (2 if data is FILTERED else 1)
    for after in range(rounds):
        spec = make.spec("poems", out=f"cut-{after}", **data)
        with pytest.raises(Cut):
            make(spec, stopped(after))
        assert Path(spec.out).exists() == (after > 0)
        assert make(spec) == whole
        assert len(make.made) == rounds - after


def test_part_finished_but_not_reported_is_not_made_again(make: "DatasetMaker", poems: Path) -> None:
    spec = make.spec("poems")
    with pytest.raises(Cut):
        make(spec, killed_after_first_part)
    make(spec)
    assert make.made == list(range(1, PARTS))


def test_build_interrupted_many_times_completes(make: "DatasetMaker", poems: Path) -> None:
    whole = make(make.spec("poems", out="whole", **FILTERED))
    spec = make.spec("poems", **FILTERED)
    for _ in range(2 * PARTS - 1):
        with pytest.raises(Cut):
            make(spec, stopped(1))
    assert make(spec, stopped(1)) == whole


def test_resumed_build_reuses_its_tokenizer(make: "DatasetMaker", poems: Path) -> None:
    spec = make.spec("poems")
    with pytest.raises(Cut):
        make(spec, stopped(2))
    calls: list[int] = []
    make(BuildSpec(**{**vars(spec), "make_tokenizer": lambda: calls.append(1)}))
    assert calls == []


@pytest.mark.parametrize("data", [{"split_by": "tail"}, {"split_by": "document"}, {"min_length": 5}], ids=str)
def test_long_text_is_the_same_for_any_number_of_workers(
    make: "DatasetMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]
) -> None:
    monkeypatch.setattr(plan, "MIN_PART", 1 << 20)
    content = "ä" + "🦆ßæ und so weiter, Käse.\n" * 110_000  # no whole number of MiB is the beginning of a character
    (tmp_path / "long.txt").write_text(content)
    spec = make.spec("long.txt", out="two", val=0.25, **data)
    assert make(spec, process_pool(2)) == make(make.spec("long.txt", out="one", val=0.25, **data))
    assert len(make.made) == (2 if "min_length" in data else 4)
    made = open_dataset(tmp_path / "two")
    assert (
        "".join(made.tokenizer.decode(split.read(0, len(split)).tolist()) for split in made.splits.values()) == content
    )
    assert sum(split["documents"] for split in made.manifest["splits"].values()) == (
        1 + (made.manifest["data"]["split_by"] == "tail")
    )


# Records of an earlier attempt


@pytest.mark.parametrize("data", [{}, FILTERED], ids=["as it is", "filtered"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"key": "', b'"key": "0'),
        lambda content: content[:-3] + b"\xff" + content[-2:],
        lambda _: b"{}",
        lambda _: b"[]\n\n",
    ],
    ids=["empty", "cut", "other key", "other byte", "object", "list"],
)
def test_damaged_record_is_ignored(make: "DatasetMaker", poems: Path, damage: Any, data: dict[str, Any]) -> None:
    whole = make(make.spec("poems", out="whole", **data))
    spec = make.spec("poems", **data)
    with pytest.raises(Cut):
        make(spec, stopped(2 * PARTS - 1 if data else PARTS - 1))
    for record in (Path(spec.out) / STAGING).glob("00002.*"):
        record.write_bytes(damage(record.read_bytes()))
    assert make(spec) == whole
    assert set(make.made) == {2, PARTS - 1}


@pytest.mark.parametrize("damage", ["gone", "another byte"])
def test_record_with_a_damaged_shard_is_ignored(make: "DatasetMaker", poems: Path, damage: str) -> None:
    spec = make.spec("poems")
    whole = make(make.spec("poems", out="whole"))
    with pytest.raises(Cut):
        make(spec, stopped(3))
    shard = next(Path(spec.out).glob("*/00001.tokens"))
    content = shard.read_bytes()
    shard.unlink()
    if damage != "gone":
        shard.write_bytes(content[:-1] + b"#")
    assert make(spec) == whole
    assert make.made == [1, 3, 4, 5]


def test_only_changed_text_is_encoded_again(make: "DatasetMaker", poems: Path, letters: TokenizerConfig) -> None:
    with pytest.raises(Cut):
        make(make.spec("poems", tokenizer=letters), stopped(PARTS - 1))
    (poems / "3.txt").write_text("a small poem\n")
    found = make(make.spec("poems", tokenizer=letters))
    assert make.made == [3, 5]
    assert found == make(make.spec("poems", out="whole", tokenizer=letters))


def test_change_of_the_same_size_is_noticed(make: "DatasetMaker", poems: Path, letters: TokenizerConfig) -> None:
    with pytest.raises(Cut):
        make(make.spec("poems", tokenizer=letters, **FILTERED), stopped(2 * PARTS - 1))
    file = poems / "3.txt"
    file.write_text(file.read_text().replace("poem", "meop"))
    found = make(make.spec("poems", tokenizer=letters, **FILTERED))
    assert found == make(make.spec("poems", out="whole", tokenizer=letters, **FILTERED))


@pytest.mark.parametrize("damage", ["text", "tokenizer", "its key"])
def test_tokenizer_of_other_text_or_damaged_is_ignored(make: "DatasetMaker", poems: Path, damage: str) -> None:
    spec = make.spec("poems")
    with pytest.raises(Cut):
        make(spec, stopped(2))
    if damage == "text":
        (poems / "3.txt").write_text("ein Gedicht")
    else:
        file = Path(spec.out) / (TOKENIZER if damage == "tokenizer" else TOKENIZER_KEY)
        file.write_bytes(file.read_bytes()[:-1])
    assert make(make.spec("poems")) == make(make.spec("poems", out="whole"))


@pytest.mark.parametrize("back", [False, True], ids=["and stays", "and is changed back"])
@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({}, {"val": 0.5}),
        ({}, {"split_by": "document"}),
        ({}, {"dedup": True}),
        ({}, {"errors": "strict"}),
        ({"min_length": 2}, {"min_length": 26}),
    ],
    ids=str,
)
@pytest.mark.parametrize("out", ["out", "memory://duck/out"])
def test_parts_made_with_other_settings_are_ignored(
    make: "DatasetMaker", poems: Path, first: dict[str, Any], other: dict[str, Any], back: bool, out: str
) -> None:
    """Also if the new attempt died between a shard and its record."""

    kind = type(open_storage(out))
    write = kind.write

    def dies_behind_a_shard(self: Storage, name: str, content: bytes) -> None:
        if name.endswith("00001.json"):
            raise Cut
        write(self, name, content)  # type: ignore[arg-type]

    with pytest.raises(Cut):
        make(make.spec("poems", out=out, **first), stopped(PARTS * bool(first) + 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "write", dies_behind_a_shard)
        with pytest.raises(Cut):
            make(make.spec("poems", out=out, **other))
    data = first if back else other
    found = make(make.spec("poems", out=out, **data))
    assert found == make(make.spec("poems", out="whole", **data))


def test_files_of_other_settings_are_removed(make: "DatasetMaker", poems: Path) -> None:
    with pytest.raises(Cut):
        make(make.spec("poems", val=0.4, test=0.3), stopped(PARTS - 1))
    spec = make.spec("poems", val=0.0)
    assert make(spec) == make(make.spec("poems", out="whole", val=0.0))
    assert sorted(p.name for p in Path(spec.out).iterdir()) == ["dataset.json", "tokenizer.json", "train"]


def test_partial_files_of_a_killed_process_are_removed(make: "DatasetMaker", poems: Path) -> None:
    whole = make(make.spec("poems", out="whole"))
    spec = make.spec("poems")
    with pytest.raises(Cut):
        make(spec, stopped(2))
    for folder in (Path(spec.out), Path(spec.out) / STAGING):
        (folder / ".partial-abc").write_bytes(b"half a man")
        (folder / ".partial-staging").mkdir()
        (folder / ".partial-staging" / "train").write_bytes(b"half a shard")

    def looking(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        assert list(Path(spec.out).rglob(".partial-*")) == []  # it could be in the way on a small disk
        return in_process(task, items)

    assert make(spec, looking) == whole


def test_interrupted_cleanup_is_completed_by_the_next_build(
    make: "DatasetMaker", poems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(make.spec("poems", out="whole"))
    spec = make.spec("poems")

    def dies(_: LocalStorage) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "clear_staging", dies)
        with pytest.raises(Cut):
            make(spec)
    assert (Path(spec.out) / STAGING).exists()
    assert make(spec, idle) == whole


def test_repeated_build_writes_nothing(make: "DatasetMaker", poems: Path) -> None:
    spec = make.spec("poems")
    whole = make(spec)
    stamps = {path: path.stat().st_mtime_ns for path in Path(spec.out).rglob("*")}
    assert make(spec, idle) == whole
    assert {path: path.stat().st_mtime_ns for path in Path(spec.out).rglob("*")} == stamps


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell the names of open files")
def test_shards_are_synced_before_the_manifest(
    make: "DatasetMaker", poems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(Path(f"/proc/self/fd/{file}").readlink()))
    spec = make.spec("poems")
    shards = [Path(spec.out) / name for name in make(spec) if name.endswith(".tokens")]
    manifest = max(at for at, file in enumerate(flushed) if file.name.startswith(".partial-"))  # under its first name
    assert flushed[manifest + 1] == Path(spec.out)
    for shard in shards:
        assert shard in flushed[:manifest]
        assert shard.parent in flushed[:manifest]
