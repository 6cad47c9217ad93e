"""Validation and test splits that have a text of their own."""

from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.datasets.cache import build_local, ensure_dataset
from fledge.datasets.config import DataConfig
from fledge.datasets.description import describe_held_out, describe_text
from fledge.datasets.shards import Dataset
from fledge.datasets.spec import build_spec, with_own_splits
from fledge.planning.corpus_stats import read_corpus_stats
from fledge.settings.layers import merge_layers
from fledge.settings.pipeline import validated
from fledge.tokenizers.config import TokenizerConfig

CHAR = TokenizerConfig(kind="char", end_of_text=False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    for name, text in (("train", "abc " * 500), ("val", "bcd " * 50), ("test", "cde " * 40), ("more", "xyz " * 30)):
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def build(out: str = "out", sources: tuple[str, ...] = ("train.txt",), **data: object) -> Dataset:
    return build_local(build_spec(sources, DataConfig(**data), CHAR, out))  # type: ignore[arg-type]


def texts(dataset: Dataset) -> dict[str, str]:
    return {
        name: dataset.tokenizer.decode(split.read(0, len(split)).tolist()) for name, split in dataset.splits.items()
    }


def test_splits_are_the_texts(folder: Path) -> None:
    made = build(val_corpus="val.txt", test_corpus=("test.txt", "more.txt"))
    assert texts(made) == {"train": "abc " * 500, "val": "bcd " * 50, "test": "cde " * 40 + "xyz " * 30}
    assert [(each["name"], each.get("split")) for each in made.manifest["sources"]] == [
        ("train.txt", None),
        ("val.txt", "val"),
        ("test.txt", "test"),
        ("more.txt", "test"),
    ]
    held_out = (
        "held out: all of 'val.txt', 200 B in 1 document; for the final test: all of 'test.txt', 'more.txt', 280 B"
    )
    assert describe_held_out(made.manifest) == f"{held_out} in 2 documents"
    assert held_out in describe_text(made)


def test_test_text_leaves_validation_to_the_fraction(folder: Path) -> None:
    made = texts(build(test_corpus="test.txt", val=0.1, split_by="tail"))
    assert made == {"train": "abc " * 450, "val": "abc " * 50, "test": "cde " * 40}


def test_documents_are_not_divided(folder: Path) -> None:
    made = build(val_corpus="val.txt", split_by="document", test=0.5)
    assert texts(made)["val"] == "bcd " * 50
    assert build("other", val_corpus="val.txt", separator=" ").manifest["splits"]["val"]["documents"] == 50


def test_filters_apply_to_all_texts(folder: Path) -> None:
    (folder / "same.txt").write_text("abc " * 500)
    made = build(sources=("train.txt", "more.txt"), val_corpus=("val.txt", "same.txt"), dedup=True)
    assert texts(made)["val"] == "bcd " * 50  # what is trained on is no test
    assert sum(made.manifest["dropped"].values()) == 1


def test_other_text_is_another_dataset(folder: Path) -> None:
    first = ensure_dataset(DataConfig(corpus="train.txt", val_corpus="val.txt"), CHAR)
    again = ensure_dataset(DataConfig(corpus="train.txt", val_corpus="val.txt"), CHAR)
    other = ensure_dataset(DataConfig(corpus="train.txt", val_corpus="more.txt"), CHAR)
    (folder / "val.txt").write_text("new " * 50)
    changed = ensure_dataset(DataConfig(corpus="train.txt", val_corpus="val.txt"), CHAR)
    assert first.folder == again.folder
    assert len({first.folder, other.folder, changed.folder}) == 3
    assert texts(changed)["val"] == "new " * 50


@pytest.mark.parametrize("split", ["val", "test"])
def test_missing_or_empty_text_is_refused(folder: Path, split: str) -> None:
    with pytest.raises(UserError, match=r"no such file or folder: 'gone\.txt'"):
        build(**{f"{split}_corpus": "gone.txt"})
    (folder / "empty.txt").write_text(" \n")
    with pytest.raises(UserError, match=r"there is no text in 'empty\.txt'"):
        build(**{f"{split}_corpus": "empty.txt"})
    assert not (folder / "out").exists()


def test_dataset_inside_a_held_out_text_is_refused(folder: Path) -> None:
    (folder / "held").mkdir()
    (folder / "held" / "a.txt").write_text("abc")
    with pytest.raises(UserError, match="lies inside the text in 'held'"):
        build("held/out", val_corpus="held")


def test_named_corpora_bring_their_splits() -> None:
    def own(*names: str, **data: object) -> tuple[object, object]:
        found = with_own_splits(names, DataConfig(**data))  # type: ignore[arg-type]
        return found.val_corpus, found.test_corpus

    assert own("wikitext-103") == own("wikitext-103:0.1") == ("wikitext-validation", "wikitext-test")
    assert own("wikitext-103", "wikitext-2") == ("wikitext-validation", "wikitext-test")
    assert own("wikitext-103", val=0.1) == (None, "wikitext-test")
    assert own("wikitext-103", val_corpus="a.txt", test=0.1) == ("a.txt", None)
    assert own("wikitext-103", "shakespeare") == own("shakespeare") == own("a.txt") == (None, None)
    assert validated({"data": {"corpus": "wikitext-103"}}).data.val_corpus == "wikitext-validation"


def test_path_of_the_same_name_has_no_splits(folder: Path) -> None:
    (folder / "wikitext-103").write_text("abc")
    assert with_own_splits(["wikitext-103"], DataConfig()).val_corpus is None


def test_fraction_and_text_of_different_layers() -> None:
    text, fraction = {"data": {"val_corpus": "a.txt"}}, {"data": {"val": 0.1}}
    assert merge_layers(text, fraction) == fraction
    assert merge_layers(fraction, text) == text
    assert merge_layers(text, {"data": {"test": 0.1}}) == {"data": {"val_corpus": "a.txt", "test": 0.1}}


def test_plan_knows_the_tokens_of_a_text_that_is_not_prepared(folder: Path) -> None:
    settings = validated({"data": {"corpus": "wikitext-103"}, "tokenizer": {"kind": "gpt2"}})
    stats = read_corpus_stats(settings)
    assert 300_000 < stats.val_tokens < 600_000  # 660 kB, packed
    whole = validated({"data": {"corpus": "wikitext-103", "val": 0.0}, "tokenizer": {"kind": "gpt2"}})
    assert stats.train_tokens == read_corpus_stats(whole).train_tokens
