"""Documents of a dataset, checked against a plain Python model, for any formats, weights and cuts."""

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fledge.datasets.shards import Dataset
from fledge.datasets.splits import SplitRule, choose_split
from fledge.tokenizers.config import TokenizerConfig
from tiny import document_starts

if TYPE_CHECKING:
    from .conftest import DatasetMaker

SEPARATOR = "\x1e"
SHORT = 64  # bytes: a longer document comes in chunks
SHARES = [(0.0, 0.0), (0.1, 0.0), (0.3, 0.3), (0.0, 0.5)]

pytestmark = pytest.mark.usefixtures("small_chunks")


def zstd(content: bytes) -> bytes:
    held = pa.BufferOutputStream()
    with pa.CompressedOutputStream(held, "zstd") as stream:
        stream.write(content)
    return held.getvalue().to_pybytes()


def parquet(texts: list[str]) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), held, row_group_size=3)
    return held.getvalue()


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts).encode()


FORMATS: dict[str, Callable[[list[str]], bytes]] = {
    "txt": lambda texts: SEPARATOR.join(texts).encode(),
    "jsonl": lines,
    "parquet": parquet,
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


@dataclass(frozen=True)
class File:
    """Documents in one file."""

    texts: list[str]
    format: str
    packing: str
    weight: str = ""

    def write(self, folder: Path, number: int) -> str:
        """The SOURCE to read them by."""
        packing = "" if self.format == "parquet" else self.packing
        name = f"{number}.{self.format}{packing}"
        (folder / name).write_bytes(PACKINGS[packing](FORMATS[self.format](self.texts)))
        return name + self.weight

    @property
    def documents(self) -> list[str]:
        """What should come of it."""
        whole = [text for text in self.texts if text]
        if self.weight == ":2":
            return whole * 2
        return [text for text in whole if not self.weight or place_of("share\0" + text) < float(self.weight[1:])]


def place_of(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def in_ends(text: str, val: float, test: float) -> list[str]:
    """Train, val and test of a document split by tail: [ train | test | val ]; a divided character goes before."""
    data = text.encode()
    cuts = [0, int(len(data) * (1 - val - test)), int(len(data) * (1 - val)), len(data)]
    for at in (1, 2):
        while cuts[at] < len(data) and data[cuts[at]] & 0xC0 == 0x80:
            cuts[at] += 1
    train, test_part, val_part = (data[a:b].decode() for a, b in pairwise(cuts))
    return [train, val_part, test_part]


def found(dataset: Dataset) -> dict[str, list[str]]:
    """The documents of each split; checks that its starts, ends and counts agree."""
    end = dataset.tokenizer.end_of_text
    result = {}
    for name, split in dataset.splits.items():
        ids = split.read(0, len(split)).tolist()
        ends = [at + 1 for at, token in enumerate(ids) if token == end]
        starts = [0, *ends]
        assert starts.pop() == len(ids)  # the last document also ends
        assert document_starts(split) == starts
        texts = [dataset.tokenizer.decode(ids[a : b - 1]) for a, b in zip(starts, ends, strict=True)]
        counted = dataset.manifest["splits"][name]
        assert counted["tokens"] == len(ids) == sum(map(len, texts)) + len(texts)
        assert counted["documents"] == len(texts)
        assert counted["bytes"] == sum(len(text.encode()) for text in texts)
        result[name] = texts
    return result


text = st.text("ab .\nß🦆", max_size=150)
short = st.text("ab .\nß🦆", max_size=14)


def files(texts: st.SearchStrategy[str], weights: list[str]) -> st.SearchStrategy[list[File]]:
    one = st.builds(
        File,
        st.lists(texts, max_size=9),
        st.sampled_from(sorted(FORMATS)),
        st.sampled_from(sorted(PACKINGS)),
        st.sampled_from(weights),
    )
    return st.lists(one, min_size=1, max_size=3)


def prepared(make: "DatasetMaker", held: list[File], **data: Any) -> Dataset:
    for file in make.folder.glob("*.*"):
        file.unlink()
    sources = [file.write(make.folder, number) for number, file in enumerate(held)]
    return make.dataset(make.spec(*sources, out=make.fresh(), separator=SEPARATOR, **data))


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> "DatasetMaker":
    """One maker for all examples of a test."""
    from .conftest import DatasetMaker

    return DatasetMaker(tmp_path_factory.mktemp("documents"))


@settings(max_examples=40)
@given(held=files(text, ["", ":2"]), shares=st.sampled_from(SHARES))
def test_tail_split_keeps_every_character(again: "DatasetMaker", held: list[File], shares: tuple[float, float]) -> None:
    documents = [text for file in held for text in file.documents]
    assume(any(text.strip() for text in documents))
    made = prepared(again, held, split_by="tail", val=shares[0], test=shares[1])
    parts = [in_ends(text, *shares) for text in documents]
    assert list(found(made).values()) == [[part[at] for part in parts if part[at]] for at in range(3)]


@settings(max_examples=40)
@given(held=files(text, ["", ":2"]), shares=st.sampled_from(SHARES))
def test_document_split_keeps_every_document(
    again: "DatasetMaker", held: list[File], shares: tuple[float, float]
) -> None:
    documents = [text for file in held for text in file.documents]
    assume(any(text.strip() for text in documents))
    made = prepared(again, held, split_by="document", val=shares[0], test=shares[1])
    sides = found(made)
    home = {text: name for name, texts in sides.items() for text in texts}
    assert sides == {name: [text for text in documents if home.get(text) == name] for name in sides}
    split_rule = SplitRule("document", *shares)
    assert all(home[text] == choose_split(text, split_rule) for text in documents if len(text.encode()) <= SHORT)


@settings(max_examples=40)
@given(
    held=files(short, ["", ":2", ":0.5"]), least=st.sampled_from([None, 3]), by=st.sampled_from(["tail", "document"])
)
def test_filters_and_weights_match_a_plain_python_model(
    again: "DatasetMaker", held: list[File], least: int | None, by: str
) -> None:
    left, seen, short, twice = [], set(), 0, 0
    for file in held:
        texts = [text for text in file.texts if text]
        short += sum(len(text) < (least or 0) for text in texts)
        first = {text for text in texts if len(text) >= (least or 0)} - seen
        twice += len([text for text in texts if len(text) >= (least or 0)]) - len(first)
        seen |= first
        left += list(dict.fromkeys(text for text in file.documents if text in first)) * (1 + (file.weight == ":2"))
    assume(any(text.strip() for file in held for text in file.documents) and left)
    made = prepared(again, held, split_by=by, val=0.0, dedup=True, min_length=least)
    assert found(made)["train"] == left
    counts = {"too short": short, "duplicate": twice}
    assert made.manifest["dropped"] == {why: count for why, count in counts.items() if count}


@settings(max_examples=25)
@given(content=st.text("ab .\nß🦆", min_size=200, max_size=900), shares=st.sampled_from(SHARES), packed=st.booleans())
def test_long_text_over_many_parts_is_one_document(
    again: "DatasetMaker", content: str, shares: tuple[float, float], packed: bool
) -> None:
    assume(content.strip())
    held = [File([content], "txt", ".gz" if packed else "")]
    by_tail = found(prepared(again, held, split_by="tail", val=shares[0], test=shares[1]))
    assert list(by_tail.values()) == [[part] if part else [] for part in in_ends(content, *shares)]
    assert len(again.made) > 1 or packed
    whole = found(prepared(again, held, split_by="document", val=shares[0], test=shares[1]))
    assert sorted(whole.values()) == [[], [], [content]]


@settings(max_examples=40)
@given(
    content=st.binary(min_size=100, max_size=400).filter(lambda b: b"\0" not in b),
    by=st.sampled_from(["tail", "document"]),
)
@example(content=b"\1" * 127 + b"\x80" + b"\1" * 54, by="tail")  # val begins in the last character of a part
def test_invalid_utf8_is_replaced_for_any_cuts(again: "DatasetMaker", content: bytes, by: str) -> None:
    text = content.decode("utf-8", "replace")
    assume(
        text.strip() and not content.startswith((b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"))
    )
    (again.folder / "odd.txt").write_bytes(content)
    made = again.dataset(
        again.spec("odd.txt", out=again.fresh(), split_by=by, val=0.3, test=0.2, encoding="utf-8", newlines="keep")
    )
    sides = found(made)
    assert "".join(text for name in ("train", "test", "val") for text in sides[name]) == text.removeprefix("\ufeff")
    assert made.manifest["read"]["replaced"] == len(content) - len(content.decode("utf-8", "ignore").encode())


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("by", ["tail", "document"])
def test_cuts_between_parts_change_no_token_id(make: "DatasetMaker", kind: str, by: str) -> None:
    """The ids are those of one part: parts begin at word boundaries."""
    content = "".join(f"Ein Käse, {n} Enten 🦆 and words.\n" for n in range(100))
    (make.folder / "long.txt").write_text(content)
    tokenizer = TokenizerConfig(kind=kind)  # type: ignore[arg-type]
    made = make.dataset(make.spec("long.txt", tokenizer=tokenizer, split_by=by, val=0.0))
    assert len(make.made) > 10
    ids = made.splits["train"].read(0, len(made.splits["train"])).tolist()
    assert ids == [*made.tokenizer.encode(content).tolist(), made.tokenizer.end_of_text]


def test_fraction_of_a_long_document_samples_chunks(make: "DatasetMaker") -> None:
    content = "".join(f"word {n} and word.\n" for n in range(300))
    (make.folder / "long.txt").write_text(content)
    for by in ("tail", "document"):
        made = found(make.dataset(make.spec("long.txt:0.3", out=by, split_by=by, val=0.0)))["train"]
        assert 0.1 < sum(map(len, made)) / len(content) < 0.5
        assert all(text in content for text in made)
        assert len(made) > 5
        assert made == sorted(made, key=content.index)
    twice = found(make.dataset(make.spec("long.txt:2.3", out="more", split_by="document", val=0.0)))["train"]
    assert twice == [content, content, *made]
