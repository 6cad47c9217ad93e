"""The size of a model that suits a text, where the length of the run is given."""

from pathlib import Path

import pytest

from fledge.datasets.cache import ensure_dataset
from fledge.planning import sized
from fledge.planning.sized import sized_for_steps, sized_for_time, with_vocabulary
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated


@pytest.mark.parametrize(
    ("size", "train", "vocab_size", "width"),
    [
        (300_000, {"steps": 120}, 1024, 64),
        (300_000, {"epochs": 2}, 1024, 64),
        (20_000_000, {"steps": 120}, 8192, 128),
        (20_000_000, {"steps": 2000}, 8192, 192),  # 1.6 passes, which teach as much as 1.2 texts
        (20_000_000, {"steps": 4000}, 8192, 256),  # more passes count no more
        (40_000_000, {"steps": 2000}, 8192, 256),
    ],
)
def test_model_suits_the_text_and_the_given_length(
    tmp_path: Path, size: int, train: dict[str, int], vocab_size: int, width: int
) -> None:
    text = tmp_path / "book.txt"
    with text.open("wb") as file:
        file.truncate(size)
    layer, _ = read_preset("text")
    settings = validated(layer, sized_for_steps(layer, {"data": {"corpus": str(text)}, "train": train}))
    assert (settings.tokenizer.vocab_size, settings.model.n_embd) == (vocab_size, width)
    given = sized_for_steps(layer, {"data": {"corpus": str(text)}, "train": train, "model": {"n_embd": 192}})
    assert validated(layer, given).model.n_embd == 192


@pytest.mark.parametrize(
    ("train", "dropout"), [({"epochs": 2}, 0.0), ({"epochs": 3}, 0.1), ({"steps": 20}, 0.0), ({"steps": 500}, 0.1)]
)
def test_many_given_passes_have_dropout(tmp_path: Path, train: dict[str, int], dropout: float) -> None:
    text, (layer, _) = tmp_path / "book.txt", read_preset("text")
    text.write_text("word " * 60_000)
    model = validated(layer, sized_for_steps(layer, {"data": {"corpus": str(text)}, "train": train})).model
    assert (model.dropout, model.bigram_rows) == (dropout, None if dropout else 65_536)


def test_text_that_takes_too_long_to_prepare_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sized, "LEAST_READ_BYTES", 1000)
    monkeypatch.setattr(sized, "READ_BYTES_PER_SECOND", 50)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text("".join(f"words {n % 83}, " for n in range(1000))[:6000])
    other.write_text("words " * 1000)
    layer = read_preset("text")[0]

    def sources(corpus: object, seconds: float) -> object:
        found = sized_for_time(layer, {"data": {"corpus": corpus}}, seconds)["data"]
        return found["corpus"]

    assert sources(str(text), 10) == [f"{text}:0.166667"]
    assert "6.0 kB, of which 1.0 kB are used" in capsys.readouterr().err.replace("KB", "kB")
    assert sources([str(text), f"{other}:0.5"], 60) == [f"{text}:0.333333", f"{other}:0.166667"]
    capsys.readouterr()
    assert sources(str(text), 120) == str(text)
    assert sources("https://example.org/large.txt", 1) == "https://example.org/large.txt"
    monkeypatch.setattr(sized, "SHORT_LEARN_FROM", 0.003)  # megabytes
    data = {"corpus": str(text)}
    learned = [sized_for_time(layer, {"data": data}, seconds)["tokenizer"] for seconds in (120, 2000)]
    assert learned == [{"vocab_size": 320, "learn_from": 0.003}, {"vocab_size": 320}]
    given = sized_for_time(layer, {"data": data, "tokenizer": {"learn_from": 9}}, 120)
    assert given["tokenizer"]["learn_from"] == 9
    settings = validated(layer, with_vocabulary(layer, {"data": {"corpus": str(text)}}, text.stat().st_size))
    ensure_dataset(settings.data, settings.tokenizer)
    capsys.readouterr()
    assert sources(str(text), 10) == str(text)
    assert capsys.readouterr().err == ""
