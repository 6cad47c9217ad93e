"""However it came about, the dataset is the same; and nothing of anybody else's is touched."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fledge.core.errors import Interrupted, UserError
from fledge.datasets import build as room
from fledge.datasets import plan
from fledge.datasets.build import TOKENIZER_KEY, BuildSpec, DatasetBusy, build
from fledge.datasets.executors import Executor, Task, in_process, process_pool
from fledge.datasets.shards import TOKENIZER, open_dataset
from fledge.datasets.storage import STAGING, LocalStorage, Storage, open_storage
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig

if TYPE_CHECKING:
    from .conftest import Maker

PARTS = 6
JUDGED = {"dedup": True, "min_length": 3}


class Cut(Exception):
    """The work ends in the middle."""


def stopped(after: int, error: BaseException | type[BaseException] = Cut) -> Executor:
    """Dies when so many parts are done, in whatever round."""
    done = 0

    def run(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        nonlocal done
        for item in items:
            if done == after:
                raise error
            done += 1
            yield item, task(item)

    return run


def unthanked(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Dies before anybody hears of the first part."""
    task(items[0])
    raise Cut
    yield


def shuffled(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return in_process(task, random.Random(1).sample(items, len(items)))


def idle(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    assert not items, "nothing is left to be made"
    return iter(())


@pytest.fixture
def poems(tmp_path: Path, small_parts: None) -> Path:
    """A file a part, the last one the same as the first."""
    folder = tmp_path / "poems"
    folder.mkdir()
    for number in range(PARTS):
        (folder / f"{number}.txt").write_text(f"poem: {'la ' * (number % (PARTS - 1))}und Käse 🦆\n")
    return folder


@pytest.fixture
def letters(tmp_path: Path) -> TokenizerConfig:
    """A tokenizer that does not change with the text."""
    characters = sorted(set("a small poem: la und Käse 🦆\n"))
    save_tokenizer(CharTokenizer(characters, "<|endoftext|>"), tmp_path / "letters.json")
    return TokenizerConfig(file=str(tmp_path / "letters.json"))


# The same bytes


@pytest.mark.parametrize("data", [{}, JUDGED], ids=["as it is", "judged"])
@pytest.mark.parametrize("executor", [process_pool(2), process_pool(1), shuffled], ids=["two", "one", "shuffled"])
def test_whoever_makes_the_parts_in_whatever_order_gives_the_same_bytes(
    make: "Maker", poems: Path, executor: Executor, data: dict[str, Any]
) -> None:
    alone = make(make.order("poems", out="alone", **data))
    assert make(make.order("poems", out="together", **data), executor) == alone


@pytest.mark.parametrize("data", [{}, {"split_by": "document", "test": 0.3, "val": 0.3}, JUDGED], ids=str)
def test_cut_off_after_any_part_and_gone_on_with_gives_the_same_bytes(
    make: "Maker", poems: Path, data: dict[str, Any]
) -> None:
    whole = make(make.order("poems", out="whole", **data))
    rounds = len(make.made)
    assert rounds == PARTS * (2 if data is JUDGED else 1)
    for after in range(rounds):
        spec = make.order("poems", out=f"cut-{after}", **data)
        with pytest.raises(Cut):
            make(spec, stopped(after))
        assert Path(spec.out).exists() == (after > 0)
        assert make(spec) == whole
        assert len(make.made) == rounds - after


def test_a_part_that_was_finished_before_anybody_heard_of_it_is_not_made_again(make: "Maker", poems: Path) -> None:
    spec = make.order("poems")
    with pytest.raises(Cut):
        make(spec, unthanked)
    make(spec)
    assert make.made == list(range(1, PARTS))


def test_cut_off_again_and_again_it_is_finished_all_the_same(make: "Maker", poems: Path) -> None:
    whole = make(make.order("poems", out="whole", **JUDGED))
    spec = make.order("poems", **JUDGED)
    for _ in range(2 * PARTS - 1):
        with pytest.raises(Cut):
            make(spec, stopped(1))
    assert make(spec, stopped(1)) == whole


def test_a_tokenizer_that_was_made_is_not_made_again(make: "Maker", poems: Path) -> None:
    spec = make.order("poems")
    with pytest.raises(Cut):
        make(spec, stopped(2))
    calls: list[int] = []
    make(BuildSpec(**{**vars(spec), "make_tokenizer": lambda: calls.append(1)}))
    assert calls == []


@pytest.mark.parametrize("data", [{"split_by": "tail"}, {"split_by": "document"}, {"min_length": 5}], ids=str)
def test_a_text_of_some_megabytes_is_one_text_however_many_workers_share_it(
    make: "Maker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Any]
) -> None:
    monkeypatch.setattr(plan, "MIN_PART", 1 << 20)
    content = "ä" + "🦆ßæ und so weiter, Käse.\n" * 110_000  # no whole number of MiB is the beginning of a character
    (tmp_path / "long.txt").write_text(content)
    spec = make.order("long.txt", out="two", val=0.25, **data)
    assert make(spec, process_pool(2)) == make(make.order("long.txt", out="one", val=0.25, **data))
    assert len(make.made) == (2 if "min_length" in data else 4)
    made = open_dataset(tmp_path / "two")
    assert (
        "".join(made.tokenizer.decode(split.read(0, len(split)).tolist()) for split in made.splits.values()) == content
    )
    assert sum(split["documents"] for split in made.manifest["splits"].values()) == (
        1 + (made.manifest["split_by"] == "tail")
    )


# What is found is believed only if it is true


@pytest.mark.parametrize("data", [{}, JUDGED], ids=["as it is", "judged"])
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
def test_a_damaged_record_is_not_believed(make: "Maker", poems: Path, damage: Any, data: dict[str, Any]) -> None:
    whole = make(make.order("poems", out="whole", **data))
    spec = make.order("poems", **data)
    with pytest.raises(Cut):
        make(spec, stopped(2 * PARTS - 1 if data else PARTS - 1))
    for record in (Path(spec.out) / STAGING).glob("00002.*"):
        record.write_bytes(damage(record.read_bytes()))
    assert make(spec) == whole
    assert set(make.made) == {2, PARTS - 1}


@pytest.mark.parametrize("damage", ["gone", "another byte"])
def test_a_record_whose_shard_is_not_whole_is_not_believed(make: "Maker", poems: Path, damage: str) -> None:
    spec = make.order("poems")
    whole = make(make.order("poems", out="whole"))
    with pytest.raises(Cut):
        make(spec, stopped(3))
    shard = next(Path(spec.out).glob("*/00001.tokens"))
    content = shard.read_bytes()
    shard.unlink()
    if damage != "gone":
        shard.write_bytes(content[:-1] + b"#")
    assert make(spec) == whole
    assert make.made == [1, 3, 4, 5]


def test_of_a_text_that_changed_only_what_changed_is_made_anew(
    make: "Maker", poems: Path, letters: TokenizerConfig
) -> None:
    with pytest.raises(Cut):
        make(make.order("poems", tokenizer=letters), stopped(PARTS - 1))
    (poems / "3.txt").write_text("a small poem\n")
    found = make(make.order("poems", tokenizer=letters))
    assert make.made == [3, 5]
    assert found == make(make.order("poems", out="whole", tokenizer=letters))


def test_a_change_that_leaves_the_size_is_seen(make: "Maker", poems: Path, letters: TokenizerConfig) -> None:
    with pytest.raises(Cut):
        make(make.order("poems", tokenizer=letters, **JUDGED), stopped(2 * PARTS - 1))
    file = poems / "3.txt"
    file.write_text(file.read_text().replace("poem", "meop"))
    found = make(make.order("poems", tokenizer=letters, **JUDGED))
    assert found == make(make.order("poems", out="whole", tokenizer=letters, **JUDGED))


@pytest.mark.parametrize("damage", ["text", "tokenizer", "its key"])
def test_a_tokenizer_of_another_text_or_a_damaged_one_is_not_believed(make: "Maker", poems: Path, damage: str) -> None:
    spec = make.order("poems")
    with pytest.raises(Cut):
        make(spec, stopped(2))
    if damage == "text":
        (poems / "3.txt").write_text("ein Gedicht")
    else:
        file = Path(spec.out) / (TOKENIZER if damage == "tokenizer" else TOKENIZER_KEY)
        file.write_bytes(file.read_bytes()[:-1])
    assert make(make.order("poems")) == make(make.order("poems", out="whole"))


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
def test_when_the_settings_change_what_was_made_with_others_is_not_believed(
    make: "Maker", poems: Path, first: dict[str, Any], other: dict[str, Any], back: bool, out: str
) -> None:
    """Also where the new attempt died between a shard and its record."""

    kind = type(open_storage(out))
    write = kind.write

    def dies_behind_a_shard(self: Storage, name: str, content: bytes) -> None:
        if name.endswith("00001.json"):
            raise Cut
        write(self, name, content)  # type: ignore[arg-type]

    with pytest.raises(Cut):
        make(make.order("poems", out=out, **first), stopped(PARTS * bool(first) + 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "write", dies_behind_a_shard)
        with pytest.raises(Cut):
            make(make.order("poems", out=out, **other))
    data = first if back else other
    found = make(make.order("poems", out=out, **data))
    assert found == make(make.order("poems", out="whole", **data))


def test_what_only_other_settings_needed_does_not_stay(make: "Maker", poems: Path) -> None:
    with pytest.raises(Cut):
        make(make.order("poems", val=0.4, test=0.3), stopped(PARTS - 1))
    spec = make.order("poems", val=0.0)
    assert make(spec) == make(make.order("poems", out="whole", val=0.0))
    assert sorted(p.name for p in Path(spec.out).iterdir()) == ["dataset.json", "tokenizer.json", "train"]


def test_what_a_killed_process_left_half_written_goes(make: "Maker", poems: Path) -> None:
    whole = make(make.order("poems", out="whole"))
    spec = make.order("poems")
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


def test_what_was_cut_off_while_tidying_up_is_tidied_up_by_the_next(
    make: "Maker", poems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(make.order("poems", out="whole"))
    spec = make.order("poems")

    def dies(_: LocalStorage) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "clear_staging", dies)
        with pytest.raises(Cut):
            make(spec)
    assert (Path(spec.out) / STAGING).exists()
    assert make(spec, idle) == whole


def test_done_again_nothing_is_written(make: "Maker", poems: Path) -> None:
    spec = make.order("poems")
    whole = make(spec)
    stamps = {path: path.stat().st_mtime_ns for path in Path(spec.out).rglob("*")}
    assert make(spec, idle) == whole
    assert {path: path.stat().st_mtime_ns for path in Path(spec.out).rglob("*")} == stamps


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell the names of open files")
def test_the_shards_are_on_the_disk_before_the_manifest_says_so(
    make: "Maker", poems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(Path(f"/proc/self/fd/{file}").readlink()))
    spec = make.order("poems")
    shards = [Path(spec.out) / name for name in make(spec) if name.endswith(".tokens")]
    manifest = max(at for at, file in enumerate(flushed) if file.name.startswith(".partial-"))  # under its first name
    assert flushed[manifest + 1] == Path(spec.out)
    for shard in shards:
        assert shard in flushed[:manifest]
        assert shard.parent in flushed[:manifest]


# Nobody else's


def test_another_dataset_is_never_overwritten(make: "Maker", poems: Path) -> None:
    whole = make(make.order("poems"))
    with pytest.raises(UserError, match="exists already"):
        make(make.order("poems", val=0.3))
    assert make.contents(make.order("poems")) == whole


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder", "damaged", "link", "broken link"])
def test_what_is_there_stays_as_it_is(make: "Maker", poems: Path, tmp_path: Path, kind: str) -> None:
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
    with pytest.raises(UserError, match=r"out' exists already"):
        make(make.order("poems"))
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_folder_that_only_looks_begun_is_not_taken(make: "Maker", poems: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / STAGING).mkdir(parents=True)
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"out' contains a file that is not part of a dataset: 'thesis\.txt'"):
        make(make.order("poems"))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("after", [0, 3, PARTS])
def test_what_somebody_puts_beside_the_parts_meanwhile_is_kept(make: "Maker", poems: Path, after: int) -> None:
    spec = make.order("poems")
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


def test_a_link_to_a_dataset_that_was_begun_is_followed(make: "Maker", poems: Path, tmp_path: Path) -> None:
    whole = make(make.order("poems", out="whole"))
    with pytest.raises(Cut):
        make(make.order("poems"), stopped(2))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert make(make.order("poems", out="link")) == whole
    assert (tmp_path / "link").is_symlink()


# Failing, and being told


def test_where_nothing_was_finished_nothing_is_left(make: "Maker", poems: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(make.order("poems", out="new/deeper/out"), stopped(0, UserError("no", "none")))
    assert caught.value.hint == "none"
    assert not (tmp_path / "new").exists()


def test_where_something_was_finished_that_is_said(make: "Maker", poems: Path) -> None:
    with pytest.raises(UserError) as caught:
        make(make.order("poems"), stopped(2, UserError("no", "mend it")))
    assert caught.value.hint == "mend it; finished parts are kept: run the same command to continue"


@pytest.mark.parametrize(("after", "kind"), [(0, KeyboardInterrupt), (1, Interrupted)])
def test_interrupted_at_the_keyboard_a_person_hears_what_is_kept(
    make: "Maker", poems: Path, after: int, kind: type[BaseException]
) -> None:
    with pytest.raises(kind) as caught:
        make(make.order("poems"), stopped(after, KeyboardInterrupt))
    if after:
        assert vars(caught.value) == {"code": 130, "resume_with": "the same command"}


@pytest.mark.parametrize(("filters", "why"), [({"min_length": 99}, "6 too short"), ({"max_length": 2}, "6 too long")])
@pytest.mark.parametrize("out", ["out", "memory://duck/out"])
def test_a_text_of_which_nothing_is_left_is_refused_and_leaves_nothing(
    make: "Maker", poems: Path, filters: dict[str, Any], why: str, out: str
) -> None:
    spec = make.order("poems", out=out, **filters)
    with pytest.raises(UserError, match=rf"the filters drop every document of '.*poems' \({why}\)") as caught:
        make(spec)
    assert caught.value.hint == "loosen the filters of [data]"
    assert make.contents(spec).keys() <= ({"tokenizer.json"} if "memory" in out else set())
    assert not Path(spec.out).exists()


# Two at once


def test_of_two_at_once_the_second_is_told_and_the_first_is_not_disturbed(make: "Maker", poems: Path) -> None:
    whole = make(make.order("poems", out="whole"))
    spec = make.order("poems")

    def beside_another(task: Task, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        for pair in in_process(task, items):
            with pytest.raises(DatasetBusy, match=r"another fledge process is writing '.*out'"):
                build(spec, idle, None, None)  # type: ignore[arg-type]
            yield pair

    assert make(spec, beside_another) == whole


@pytest.mark.parametrize("same", [True, False])
def test_one_that_was_finished_by_another_just_now_is_left_as_it_is(
    make: "Maker", poems: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """Between our look at the place and our claim to it."""
    theirs = make.order("poems", **({} if same else {"val": 0.4}))
    looked = room.is_built

    def meanwhile(out: str, key: str) -> bool:
        monkeypatch.setattr(room, "is_built", looked)
        make(theirs)
        return False

    monkeypatch.setattr(room, "is_built", meanwhile)
    ours = make.order("poems")
    if same:
        assert not build(ours, idle, None, None)  # type: ignore[arg-type]
    else:
        with pytest.raises(UserError, match="exists already"):
            build(ours, idle, None, None)  # type: ignore[arg-type]
    assert make.contents(theirs) == make(make.order("poems", out="whole", **({} if same else {"val": 0.4})))


# The manifest


def test_the_manifest_says_what_was_read_left_out_and_made(make: "Maker", poems: Path) -> None:
    (poems / "empty.txt").write_bytes(b"")
    (poems / "odd.txt").write_bytes(b"\xef\xbb\xbfa\xff poem\r\n")
    spec = make.order("poems", split_by="document", val=0.4, **JUDGED)
    manifest = json.loads(make(spec)["dataset.json"])
    assert manifest["key"] == spec.key
    assert manifest["split_by"] == "document"
    assert manifest["read"] == {
        "documents": PARTS + 1,
        "bytes": sum(p.stat().st_size for p in poems.iterdir()),  # as stored
        "empty": 1,
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
def test_the_same_command_mends_a_dataset_that_was_damaged(
    make: "Maker", poems: Path, name: str, damage: Callable[[Path], object]
) -> None:
    whole = make(make.order(poems))
    damage(Path(make.order(poems).out) / name)
    assert make(make.order(poems)) == whole
