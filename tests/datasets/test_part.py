"""One part → its shards and its record."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.datasets.filters import FilterRules, scan_slice
from fledge.datasets.part import Part, PartRecord, PartSpec, make_part, record_name
from fledge.datasets.shards import HEADER_BYTES
from fledge.datasets.splits import SplitRule
from fledge.datasets.storage import STAGING
from fledge.text.formats import describe
from fledge.text.inputs import CHUNK_SIZE, ReadCounts, ReadOptions, Slice
from fledge.tokenizers.base import serialize_tokenizer
from fledge.tokenizers.char import CharTokenizer

END = "|"  # of a document, when ids are shown as text
LETTERS = "abcdef \n�"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("a bad%cab%fed")
    return file


@pytest.fixture
def spec(tmp_path: Path) -> PartSpec:
    (tmp_path / "out" / STAGING).mkdir(parents=True)
    tokenizer = serialize_tokenizer(CharTokenizer(LETTERS, "<|endoftext|>"))
    return PartSpec(str(tmp_path / "out"), tokenizer, ReadOptions(separator="%"), SplitRule("document", 0.0, 0.0))


def part_of(file: Path, number: int = 3, **changes: object) -> Part:
    return Part(number, "its key", (replace(Slice(describe(file.name, str(file))), **changes),))  # type: ignore[arg-type]


def written(spec: PartSpec, name: str) -> str:
    content = (Path(spec.out) / name).read_bytes()
    ids = content[HEADER_BYTES : HEADER_BYTES + 2 * int.from_bytes(content[16:24], "little")]
    return "".join((LETTERS + END)[i] for i in ids[::2])


def listing(spec: PartSpec) -> set[str]:
    return {p.relative_to(spec.out).as_posix() for p in Path(spec.out).rglob("*") if p.is_file()}


def test_part_writes_a_shard_per_nonempty_split_and_a_record(spec: PartSpec, text: Path) -> None:
    part = part_of(text)
    sizes = scan_slice(part.slices[0], spec.options, FilterRules())
    record = make_part(replace(spec, split_rule=SplitRule("tail", 0.5, 0.0)), replace(part, scans=(sizes,)))
    assert listing(spec) == {"train/00003.tokens", "val/00003.tokens", record_name(3)}
    assert written(spec, "train/00003.tokens") == "a |c|f|"
    assert written(spec, "val/00003.tokens") == "bad|ab|ed|"
    assert {name: (info.tokens, info.documents) for name, info in record.shards.items()} == {
        "train": (7, 3),
        "val": (10, 3),
    }
    assert record.sizes == {"train": 4, "val": 7, "test": 0}
    assert record.counts == ReadCounts(documents=3, bytes=11)


def test_same_part_gives_the_same_bytes(spec: PartSpec, text: Path) -> None:
    contents = []
    for _ in range(2):
        make_part(spec, part_of(text))
        contents.append({name: (Path(spec.out) / name).read_bytes() for name in listing(spec)})
    assert contents[0] == contents[1]


def test_record_is_read_with_its_own_key_only(spec: PartSpec, text: Path) -> None:
    record = make_part(spec, part_of(text))
    content = (Path(spec.out) / record_name(3)).read_bytes()
    assert PartRecord.from_file(content, "its key") == record
    assert PartRecord.from_file(content, "another") is None


@pytest.mark.parametrize("content", [b"", b"\n", b"text", b"text\n{}", b"{}", b"[]"])
def test_record_without_checksum_is_ignored(content: bytes) -> None:
    assert PartRecord.from_file(content, "key") is None


def test_record_with_any_changed_byte_is_ignored() -> None:
    content = PartRecord("key").to_file()
    assert PartRecord.from_file(content, "key") == PartRecord("key")
    for at in range(len(content)):
        assert PartRecord.from_file(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :], "key") is None


def test_failed_part_leaves_no_files(spec: PartSpec, text: Path) -> None:
    text.write_text("a bad%zebra")
    with pytest.raises(UserError, match=r"'z' \(U\+007A\)"):
        make_part(spec, part_of(text))
    assert listing(spec) == set()


def test_only_kept_documents_are_encoded(spec: PartSpec, text: Path) -> None:
    part = part_of(text)
    seen = scan_slice(part.slices[0], spec.options, FilterRules(min_length=4))
    record = make_part(spec, replace(part, scans=(seen,)))
    assert written(spec, "train/00003.tokens") == "a bad|"
    assert record.counts.documents == 3  # read, not kept


def test_tokenizer_without_end_of_text_adds_none(spec: PartSpec, text: Path) -> None:
    plain = replace(spec, tokenizer=serialize_tokenizer(CharTokenizer(LETTERS)))
    make_part(plain, part_of(text))
    assert written(spec, "train/00003.tokens") == "a badcabfed"


@pytest.mark.parametrize("shares", [(0.0, 0.0), (0.5, 0.5 - 1e-9), (0.3, 0.3)])
def test_part_inside_a_document_uses_its_first_chunk(spec: PartSpec, text: Path, shares: tuple[float, float]) -> None:
    text.write_text("a bad cab\n" * (2 * CHUNK_SIZE // 10))
    whole = replace(spec, options=ReadOptions(), split_rule=SplitRule("document", *shares))
    first = make_part(whole, part_of(text, 0, start=0, end=CHUNK_SIZE))
    later = make_part(whole, part_of(text, 1, start=CHUNK_SIZE))
    assert list(first.shards) == list(later.shards)
    (split,) = first.shards
    assert first.shards[split].documents == 1
    assert later.shards[split].documents == 0
    assert written(spec, f"{split}/00000.tokens") + written(spec, f"{split}/00001.tokens") == text.read_text() + END


def test_part_can_be_pickled(text: Path) -> None:
    part = part_of(text)
    assert vars(pickle.loads(pickle.dumps(part))) == vars(part)  # noqa: S301 — our own
