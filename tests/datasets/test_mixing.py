"""data.shares: the tokens of the training split, by source."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import Interrupted, UserError
from fledge.core.progress import byte_progress
from fledge.datasets import mixing
from fledge.datasets.build import build
from fledge.datasets.config import DataConfig
from fledge.datasets.description import describe_mixture, describe_text, mixture_hint
from fledge.datasets.executors import Executor, in_process
from fledge.datasets.mixing import amounts, pieces_of
from fledge.datasets.shards import Dataset, open_dataset
from fledge.datasets.spec import build_spec
from fledge.datasets.storage import open_storage
from fledge.settings.pipeline import validated
from fledge.tokenizers.config import TokenizerConfig
from tiny import document_starts

CHAR = TokenizerConfig(kind="char")
Make = Callable[..., Dataset]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    chance = random.Random(1)
    for name, letter, documents in (("a", "a", 300), ("b", "b", 200), ("c", "c", 100)):
        (tmp_path / name).mkdir()
        for number in range(documents):
            (tmp_path / name / f"{number:03d}.txt").write_text(letter * chance.randint(1, 40))
    (tmp_path / "long.txt").write_text("l" * 60_000)
    return tmp_path


def prepare(out: str, sources: tuple[str, ...], shares: tuple[float, ...], **more: Any) -> Dataset:
    data = DataConfig(**{"val": 0.0, "shares": shares, **more})
    spec = build_spec(sources, data, CHAR, out)
    build(spec, in_process, byte_progress, lambda _: None)
    return open_dataset(Path(out))


def letters(dataset: Dataset, split: str = "train") -> str:
    found = dataset.splits[split]
    return dataset.tokenizer.decode(found.read(0, len(found)).tolist())


def test_shares_hold_to_within_a_document(folder: Path) -> None:
    made = prepare("out", ("a", "b", "c"), (0.2, 0.3, 0.5))
    total = len(made.split("train"))
    for each, share in zip(made.manifest["mixture"], (0.2, 0.3, 0.5), strict=True):
        assert abs(each["tokens"] - share * total) <= 41
    whole = [each["source"] for each in made.manifest["mixture"] if each["tokens"] == each["of"]]
    assert whole == ["c"]  # it limits the mix
    assert made.manifest["splits"]["train"]["bytes"] == sum(map(letters(made).count, "abc"))


def documents(dataset: Dataset, letter: str) -> list[str]:
    """The training documents of this letter."""
    split = dataset.split("train")
    ids = split.read(0, len(split))
    cuts = np.flatnonzero(ids == dataset.tokenizer.end_of_text) + 1
    texts = [dataset.tokenizer.decode(each[:-1].tolist()) for each in np.split(ids, cuts) if len(each)]
    assert len(texts) == len(document_starts(split)) == dataset.manifest["splits"]["train"]["documents"]
    return [text for text in texts if text.startswith(letter)]


def test_documents_stay_whole_and_are_taken_evenly(folder: Path) -> None:
    taken = documents(prepare("out", ("a", "c"), (0.5, 0.5)), "a")
    known = documents(prepare("alone", ("a", "c"), (0.9, 0.1)), "a")
    assert known == [file.read_text() for file in sorted((folder / "a").iterdir())]
    rest = iter(known)
    assert all(text in rest for text in taken)  # in their order
    covered = len(known) - len(list(rest))
    assert covered > 0.95 * len(known)
    half = sum(map(len, known[: covered // 2])) / sum(map(len, known))
    assert 0.4 < half < 0.6


def test_long_document_is_taken_piece_by_piece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "PIECE", 100)
    made = prepare("out", ("long.txt", "c"), (0.5, 0.5))
    first, second = made.manifest["mixture"]
    assert second["tokens"] == second["of"]
    assert abs(first["tokens"] - second["tokens"]) <= 100
    assert first["of"] == 60_001


def test_validation_text_is_not_mixed(folder: Path) -> None:
    made = prepare("out", ("a", "b"), (0.1, 0.9), val=None, val_corpus=("c", "long.txt"))
    assert letters(made, "val").count("l") == 60_000
    assert letters(made, "val").count("c") == sum(len(f.read_text()) for f in (folder / "c").iterdir())
    assert "c" not in letters(made)


def test_weight_repeats_what_limits_the_mix(folder: Path) -> None:
    once, twice = prepare("once", ("a", "c"), (0.1, 0.9)), prepare("twice", ("a", "c:2"), (0.1, 0.9))
    assert twice.manifest["mixture"][1]["tokens"] == 2 * once.manifest["mixture"][1]["tokens"]


@pytest.mark.parametrize("parts", [0, 1])
def test_interrupted_mix_is_continued_with_the_same_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    def bytes_of(out: str) -> dict[str, bytes]:
        return {str(path.relative_to(out)): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}

    prepare("whole", ("a", "b", "c"), (0.1, 0.1, 0.8))
    usual, calls = mixing.Thinning._write, list[int]()

    def write(self: mixing.Thinning, *values: Any) -> Any:
        calls.append(1)
        if len(calls) > parts:
            raise KeyboardInterrupt
        return usual(self, *values)

    with monkeypatch.context() as patch:
        patch.setattr(mixing.Thinning, "_write", write)
        with pytest.raises(Interrupted):
            prepare("out", ("a", "b", "c"), (0.1, 0.1, 0.8))
    assert not (Path("out") / "dataset.json").exists()
    prepare("out", ("a", "b", "c"), (0.1, 0.1, 0.8))
    assert bytes_of("out") == bytes_of("whole")


def test_other_executor_gives_the_same_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(task: Any, items: Any) -> Any:
        return in_process(task, list(items)[::-1])

    executor: Executor = backwards
    monkeypatch.setattr("fledge.datasets.plan.MIN_PART", 500)
    first = prepare("one", ("a", "b"), (0.4, 0.6))
    spec = build_spec(("a", "b"), DataConfig(val=0.0, shares=(0.4, 0.6)), CHAR, "two")
    build(spec, executor, byte_progress, lambda _: None)
    assert open_dataset(Path("two")).fingerprint == first.fingerprint
    assert len(first.manifest["splits"]["train"]["shards"]) > 4


def test_mix_at_a_url_is_the_same(folder: Path) -> None:
    made = prepare("out", ("a", "c"), (0.3, 0.7))
    url = "memory://mixed/out"
    build(build_spec(("a", "c"), DataConfig(val=0.0, shares=(0.3, 0.7)), CHAR, url), in_process, byte_progress, print)
    assert json.loads(open_storage(url).read("dataset.json") or b"") == made.manifest
    assert open_storage(url).names() == {
        str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()
    }


def test_mix_in_words(folder: Path) -> None:
    made = prepare("out", ("a", "c"), (0.25, 0.75))
    mixture = made.manifest["mixture"]
    words = describe_mixture(mixture)
    assert words.startswith(f"mixed 25 % 'a' ({mixture[0]['tokens']:,} of its {mixture[0]['of']:,}), 75 % 'c' (all of")
    assert describe_text(made).endswith(words)
    assert mixture_hint(mixture).endswith("'c:2' would read it twice as often")
    assert "'c:1' would" in mixture_hint([mixture[0], {**mixture[1], "source": "c:0.5"}])
    assert mixture_hint([mixture[1]]) == ""


@pytest.mark.parametrize("shares", [(0.2, 0.3, 0.5), (0.5, 0.5, 0.0)])
def test_wrong_shares_are_refused(folder: Path, shares: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"data\.shares"):
        prepare("out", ("a", "b"), shares)
    with pytest.raises(UserError, match=r"data\.shares"):
        validated({"data": {"corpus": ["a", "b"], "shares": list(shares)}})


def test_source_without_training_text_is_refused(folder: Path) -> None:
    (folder / "tiny.txt").write_text("x")
    with pytest.raises(UserError, match=r"'tiny\.txt' has no text in the training split"):
        prepare("out", ("a", "tiny.txt"), (0.5, 0.5), val=0.5, split_by="tail")


@given(st.lists(st.integers(1, 10**12), min_size=2, max_size=5), st.data())
def test_amounts_have_the_shares_and_use_one_source_up(available: list[int], data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.integers(1, 100), min_size=len(available), max_size=len(available)))
    shares = [part / sum(parts) for part in parts]
    taken = amounts(available, shares, ["s"] * len(available))
    assert all(0 <= one <= most for one, most in zip(taken, available, strict=True))
    assert any(most - one <= 1 for one, most in zip(taken, available, strict=True))
    for one, share in zip(taken, shares, strict=True):
        assert abs(one - share * sum(taken)) <= 3 + 1e-9 * sum(taken)


@given(st.integers(0, 5000), st.lists(st.integers(0, 4999), max_size=20))
def test_pieces_are_the_whole_shard(tokens: int, starts: list[int]) -> None:
    documents = np.unique(np.array([start for start in starts if start < tokens], dtype=np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "PIECE", 300)
        pieces = pieces_of(tokens, documents)
    assert pieces.lengths.sum() == tokens
    assert tokens == 0 or (pieces.lengths.min() > 0 and pieces.lengths.max() <= 300)
    assert pieces.starts[pieces.opens].tolist() == documents.tolist()
    assert set(documents.tolist()) <= set(pieces.starts.tolist())
