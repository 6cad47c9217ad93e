"""data.csv: documents as the rows of one table, byte for byte as pandas writes it."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fledge.core.errors import UserError
from fledge.datasets.cache import build_local
from fledge.datasets.config import DataConfig
from fledge.datasets.shards import Dataset
from fledge.datasets.spec import build_spec
from fledge.text import csv_table
from fledge.text.corpora import CORPORA
from fledge.text.csv_table import csv_row
from fledge.text.source_text import open_sources
from fledge.tokenizers.config import TokenizerConfig

ROWS = ["", " = A duck = \n", "It swims .", 'It says " quack " .', "a , b", " \n", "CR\ror\r\nCRLF", "", "the end"]
TABLE = 'text\n""\n" = A duck = \n"\nIt swims .\n"It says "" quack "" ."\n"a , b"\n" \n"\n"CR\nor\nCRLF"\n""\nthe end\n'


def write(folder: Path, kind: str) -> Path:
    file = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": ROWS}), file, row_group_size=2)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    else:
        with file.open("w", newline="") as opened:
            csv.writer(opened).writerows([["text"], *([row] for row in ROWS)])
    return file


def texts(dataset: Dataset) -> dict[str, str]:
    splits = {name: dataset.splits[name] for name in dataset.splits}
    return {name: dataset.tokenizer.decode(split.read(0, len(split)).tolist()) for name, split in splits.items()}


def build(sources: list[Path], out: Path, **data: object) -> Dataset:
    settings = DataConfig(csv=True, **data)  # type: ignore[arg-type]
    return build_local(build_spec([str(each) for each in sources], settings, TokenizerConfig(kind="char"), str(out)))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_documents_become_the_rows_of_a_table(tmp_path: Path, kind: str) -> None:
    made = build([write(tmp_path, kind)], tmp_path / "out", val=0.0)
    assert texts(made)["train"] == TABLE  # one stream without end-of-text
    assert made.manifest["splits"]["train"]["documents"] == 1


def test_table_equals_that_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows = [*ROWS, "a", " lead", "semi;colon", "tab\t", "quote'", '"', ",", "ünï", "0", "\\", None]
    pandas.DataFrame({"text": rows}).to_csv(tmp_path / "pandas.csv", index=False, lineterminator="\n")
    pq.write_table(pa.table({"text": rows}), tmp_path / "rows.parquet")
    (table,) = (texts(build([tmp_path / "rows.parquet"], tmp_path / "out", val=0.0, newlines="keep"))["train"],)
    assert table.encode() == (tmp_path / "pandas.csv").read_bytes()


def test_every_file_is_a_table_with_its_header(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one"), ("b.txt", "two\n"), ("val.txt", "three")):
        (tmp_path / name).write_text(text)
    made = build([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "out", val_corpus=str(tmp_path / "val.txt"))
    assert texts(made) == {"train": 'text\none\ntext\n"two\n"\n', "val": "text\nthree\n", "test": ""}


def test_rows_of_a_named_corpus_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "parquet")
    monkeypatch.setitem(
        CORPORA,
        "wiki",
        CORPORA["wikitext-103"].__class__(**{**vars(CORPORA["wikitext-103"]), "origin": str(tmp_path / "*.parquet")}),
    )
    chunks = open_sources(["wiki"], csv=True).chunks()
    assert "".join(chunk.text for chunk in chunks) == TABLE


def test_long_table_comes_in_chunks_that_tokenizers_may_encode_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"row {n}, {'la ' * 50}"}) + "\n" for n in range(999))
    )
    chunks = list(open_sources([str(tmp_path / "a.jsonl")], csv=True).chunks())
    assert len(chunks) > 2
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    whole = list(csv.reader(io.StringIO("".join(chunk.text for chunk in chunks))))
    assert (len(whole), whole[0], whole[-1][0][:7]) == (1000, ["text"], "row 998")


@pytest.mark.parametrize("by", ["tail", "document"])
def test_table_can_be_split(tmp_path: Path, by: str) -> None:
    (tmp_path / "a.txt").write_text("la " * 1000)
    made = texts(build([tmp_path / "a.txt"], tmp_path / "out", val=0.25, split_by=by))
    assert made["train"] + made["val"] == f"text\n{'la ' * 1000}\n"
    assert len(made["val"]) in ((751, 752) if by == "tail" else (0, 3006))


def test_empty_row_is_quoted() -> None:
    assert csv_row("") == b'""\n'
    assert csv_row(" = ") == b" = \n"


@pytest.mark.parametrize("values", [{"min_length": 3}, {"max_length": 3}, {"charset": "ascii"}, {"dedup": True}])
def test_filters_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"data\.csv makes one table"):
        DataConfig(csv=True, **values)  # type: ignore[arg-type]


def test_document_too_long_for_a_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "TEXT_LIMIT", 100)
    (tmp_path / "a.txt").write_text("la " * 100)
    with pytest.raises(UserError, match="too long for a row"):
        list(open_sources([str(tmp_path / "a.txt")], csv=True).chunks())
