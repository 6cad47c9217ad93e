"""What is held out, chosen by the text and said in words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fledge.datasets.build import choose_split_rule
from fledge.datasets.config import DataConfig
from fledge.datasets.description import describe_damage, describe_held_out, describe_text
from fledge.text.kinds import list_kinds
from fledge.text.source_text import open_sources
from fledge.text.summary import FileSummary

if TYPE_CHECKING:
    from .conftest import DatasetMaker


def manifest(by: str, **splits: tuple[int, int]) -> dict[str, Any]:
    sizes = {name: splits.get(name, (0, 0)) for name in ("train", "val", "test")}
    counts = {name: {"tokens": size, "bytes": size, "documents": number} for name, (size, number) in sizes.items()}
    return {"data": {"split_by": by}, "splits": counts}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (manifest("document", train=(9000, 90), val=(1000, 3)), "held out 10 %: 1.0 KB in 3 documents"),
        (manifest("document", train=(900, 9), val=(100, 1)), "held out 10 %: 100 B in 1 document"),
        (manifest("tail", train=(800, 1), val=(200, 1)), "held out 20 %: 200 B, the end of the document"),
        (manifest("tail", train=(800, 4), val=(200, 4)), "held out 20 %: 200 B, the ends of 4 documents"),
        (
            manifest("document", train=(800, 8), val=(100, 1), test=(100, 2)),
            "held out 10 %: 100 B in 1 document; for the final test 10 %: 100 B in 2 documents",
        ),
        (manifest("tail", train=(800, 1)), "nothing held out"),
    ],
)
def test_held_out_share_in_words(found: dict[str, Any], words: str) -> None:
    assert describe_held_out(found) == words


@pytest.mark.parametrize(
    ("documents", "size", "data", "by"),
    [
        (120, 100, DataConfig(), "document"),
        (99, 100, DataConfig(), "tail"),  # too few
        (1, 20_000, DataConfig(), "tail"),
        (120, 100, DataConfig(split_by="tail"), "tail"),
        (120, 100, DataConfig(val=0.01), "document"),  # an explicit share decides by the number alone
    ],
)
def test_split_follows_from_the_number_of_documents(
    tmp_path: Path, documents: int, size: int, data: DataConfig, by: str
) -> None:
    for number in range(documents):
        (tmp_path / f"{number:03d}.txt").write_text("x" * size)
    assert choose_split_rule(data, open_sources([str(tmp_path)])).by == by


def test_documents_too_long_for_the_held_out_share_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(150):
        (tmp_path / f"{number:03d}.txt").write_text("x" * 1000)
    text = open_sources([str(tmp_path)])
    assert choose_split_rule(DataConfig(), text).by == "document"  # 20 % are thirty documents
    monkeypatch.setattr("fledge.datasets.splits.MAX_BYTES", 5000)
    assert choose_split_rule(DataConfig(), text).by == "tail"  # 5,000 bytes are five


def test_many_notes_and_a_long_book_are_cut(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / f"{number:03d}.txt").write_text("x" * 1000)
    (tmp_path / "book.txt").write_text("x" * 60_000)
    assert choose_split_rule(DataConfig(), open_sources([str(tmp_path)])).by == "tail"
    assert choose_split_rule(DataConfig(val=0.1), open_sources([str(tmp_path)])).by == "document"


def test_text_in_a_line_and_damage_in_a_warning(make: "DatasetMaker") -> None:
    (make.folder / "a.txt").write_bytes("Мой дядя самых честных правил, ".encode("koi8-r") * 9)
    dataset = make.dataset(make.spec("a.txt", val=0.1))
    assert describe_text(dataset).startswith("read 1 file (1 txt), ")
    assert "; held out " in describe_text(dataset)
    assert describe_damage(dataset).startswith("warning: 225 invalid bytes of the text became '\ufffd'; ")


def test_list_of_kinds_is_short() -> None:
    assert list_kinds({}) == ""
    assert list_kinds({"png": 4, "pdf": 7, "empty": 4}) == "7 pdf, 4 empty, 4 png"
    assert list_kinds({name: 1000 - at for at, name in enumerate("abcdefgh")}) == (
        "1,000 a, 999 b, 998 c, 997 d, 996 e, 2,982 other"
    )


def test_advice_names_a_few_damaged_files() -> None:
    summary = FileSummary({"txt": 5}, {}, {}, [f"{name}.txt" for name in "abcde"])
    assert summary.advice()[0] == "warning: invalid bytes, read as '\ufffd', in 'a.txt', 'b.txt', 'c.txt' and 2 more"
