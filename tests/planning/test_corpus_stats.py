"""Which texts are counted for a forecast, and which are estimated without touching them."""

from pathlib import Path

import pytest

from fledge.core.config import read_overrides
from fledge.planning.corpus_stats import read_corpus_stats
from fledge.settings.pipeline import resolve


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
