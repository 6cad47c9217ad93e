"""The size of a model that suits a text, where the length of the run is given."""

from pathlib import Path

import pytest

from fledge.planning.sized import sized_for_steps
from fledge.settings.layers import read_preset
from fledge.settings.pipeline import validated


@pytest.mark.parametrize(
    ("size", "train", "vocab_size", "width"),
    [
        (300_000, {"steps": 120}, 1024, 64),
        (300_000, {"epochs": 2}, 1024, 64),
        (20_000_000, {"steps": 120}, 4096, 128),
        (20_000_000, {"steps": 2000}, 4096, 256),
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
