"""How many texts are generated at the same time."""

import pytest

from fledge.core.device import Machine
from fledge.model.config import ModelConfig
from fledge.model.flops import cache_bytes
from fledge.recipes import load_engine
from fledge.recipes.generate import MAX_SLOTS, slots_for

CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=32, context=64, vocab_size=16)


@pytest.mark.parametrize(("texts", "slots"), [(1, 1), (2, 2), (3, 4), (5, 8), (32, 32), (33, MAX_SLOTS)])
def test_number_of_slots_is_a_power_of_two(texts: int, slots: int) -> None:
    assert slots_for(texts) == slots


@pytest.mark.parametrize(("caches", "slots"), [(0, 1), (1, 1), (3, 2), (8, 8), (31, 16), (1000, 32)])
def test_slots_fit_into_a_quarter_of_the_memory(monkeypatch: pytest.MonkeyPatch, caches: int, slots: int) -> None:
    memory = 4 * caches * cache_bytes(CONFIG, itemsize=4)
    monkeypatch.setattr(load_engine, "total_memory", lambda _: memory)
    assert load_engine.fitting_slots(32, CONFIG, Machine("cpu", "float32")) == slots
