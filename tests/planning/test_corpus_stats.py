"""Which texts are counted for a forecast, and which are estimated without touching them."""

import zlib
from pathlib import Path

import pytest

from fledge.core.config import read_overrides
from fledge.datasets.config import DataConfig
from fledge.planning.corpus_stats import bytes_per_character, read_corpus_stats
from fledge.planning.sized import sized_for_steps, sized_for_time
from fledge.settings.pipeline import resolve
from fledge.settings.presets import read_preset


def test_remote_corpus_is_estimated_and_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    stats = read_corpus_stats(resolve("modern-125m"))
    assert stats.dataset is None
    assert stats.vocab_size == 32768
    assert 1e10 < stats.train_tokens < 4e10  # fineweb-edu's sample holds ten billion tokens of GPT-2's
    assert stats.val_tokens == pytest.approx(stats.train_tokens * 0.0002, rel=0.01)
    assert not (tmp_path / "cache").exists()


def test_small_local_text_is_counted_and_a_large_one_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "duck.txt").write_text("Once upon a time there was a duck.\n" * 1000)
    char = ["--tokenizer.kind", "char", "--tokenizer.end_of_text", "false", "--data.val", "0.1"]
    settings = resolve("demo", read_overrides(["--data.corpus", str(tmp_path / "duck.txt"), *char]))
    estimate = read_corpus_stats(settings, max_bytes=1000)
    assert (estimate.dataset, estimate.train_tokens, estimate.bytes_per_token) == (None, 31_500, 1.0)
    stats = read_corpus_stats(settings, max_bytes=100_000)
    assert stats.dataset is not None
    assert (stats.train_tokens, stats.val_tokens, stats.bytes_per_token) == (31_500, 3_500, 1.0)
    assert stats.vocab_size == len(set("Once upon a time there was a duck.\n"))


ENGLISH, RUSSIAN, CHINESE = "once upon a time\n" * 9000, "однажды утка\n" * 9000, "从前有一只鸭子\n" * 9000


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (ENGLISH.encode(), 1.0),
        (RUSSIAN.encode(), 24 / 13),
        (CHINESE.encode(), 22 / 8),
        (("A licence.\n" * 3000 + RUSSIAN).encode(), 24 / 13),  # what counts is the middle
        (RUSSIAN.encode("cp1251"), 1.0),
        (zlib.compress(RUSSIAN.encode()), 1.0),
        (b"", 1.0),
    ],
)
def test_bytes_of_a_character(tmp_path: Path, content: bytes, wanted: float) -> None:
    file = tmp_path / "text"
    file.write_bytes(content)
    for source in (file, tmp_path, f"{file}:0.5"):
        assert bytes_per_character(DataConfig(corpus=str(source))) == pytest.approx(wanted, rel=0.01)


def test_text_that_is_not_here_counts_as_english() -> None:
    assert bytes_per_character(DataConfig(corpus=["python", "/nowhere/text", "hf://some/thing"])) == 1.0


def test_vocabulary_follows_from_characters_not_bytes(tmp_path: Path) -> None:
    layer, chosen = read_preset("text")[0], []
    for name, text in (("english", ENGLISH), ("russian", RUSSIAN)):
        (tmp_path / name).write_bytes((text * 40).encode()[:3_000_000])
        overrides = {"data": {"corpus": str(tmp_path / name)}}
        chosen += [
            sized_for_steps(layer, overrides)["tokenizer"]["vocab_size"],
            sized_for_time(layer, overrides, 60)["tokenizer"]["vocab_size"],
        ]
    english, russian = chosen[:2], chosen[2:]
    assert english[0] == english[1] > russian[0] == russian[1]
