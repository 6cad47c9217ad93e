"""Weights from another run: adapters merged, new parameters from the seed, rows for added tokens."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from fledge.checkpoint.state import initial_state, load_weights, weights_of
from fledge.core.config import to_toml
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build, build_for_loading
from fledge.model.vocabulary import with_vocabulary
from fledge.runs.run_folder import create_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import add_chat_tokens
from fledge.training.config import Settings
from fledge.training.init_from import InitialWeights, find_initial_weights

TOKENIZER = CharTokenizer("abcdefghijk")
PLAIN = ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11)
IDS = torch.arange(8)[None]


def randomized(config: ModelConfig) -> GPT:
    model = build(config, 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    return model.eval()


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[[GPT], InitialWeights]:
    def made(model: GPT) -> InitialWeights:
        settings = validated({"model": asdict(model.config)})
        start = initial_state(weights_of(model), 0)
        create_run(tmp_path / "first", to_toml(settings), {"started": "today"}, TOKENIZER, start)
        return find_initial_weights("first", tmp_path)

    return made


def loaded(config: ModelConfig, initial: InitialWeights, seed: int = 5, tokens: int | None = None) -> GPT:
    model = build_for_loading(config)
    load_weights(model, initial.weights(config, seed, tokens))
    return model.eval()


@pytest.mark.parametrize("lora", [None, 2])
def test_run_with_adapters_starts_and_opens_as_a_plain_model(
    run_of: Callable[[GPT], InitialWeights], lora: int | None
) -> None:
    model = randomized(replace(PLAIN, lora=lora, value_head=True))
    initial = run_of(model)
    started, opened = loaded(PLAIN, initial), initial.run.load().model
    assert started.config == opened.config == PLAIN
    torch.testing.assert_close(started(IDS), model(IDS), rtol=1e-5, atol=1e-5)
    assert torch.equal(opened(IDS), started(IDS))
    with_values = initial.run.load(value_head=True).model
    torch.testing.assert_close(with_values.values(IDS), model.values(IDS), rtol=1e-5, atol=1e-5)


def test_new_parameters_come_from_the_seed(run_of: Callable[[GPT], InitialWeights]) -> None:
    initial, config = run_of(randomized(PLAIN)), replace(PLAIN, lora=3, value_head=True)
    weights, fresh = initial.weights(config, 7), weights_of(build(config, 7))
    new = [name for name in weights if "lora" in name or "value_head" in name]
    assert len(new) == 2 * 7 + 1
    assert all(torch.equal(weights[name], fresh[name]) for name in new)
    assert torch.equal(loaded(config, initial)(IDS), loaded(PLAIN, initial)(IDS))


def test_weights_of_another_kind_of_block_are_refused(run_of: Callable[[GPT], InitialWeights]) -> None:
    """They have the same names and shapes."""
    with pytest.raises(UserError, match="blocks 'post_norm', and the new model has 'pre_norm'") as caught:
        loaded(PLAIN, run_of(randomized(replace(PLAIN, block="post_norm"))))
    assert "--model.block post_norm" in caught.value.hint


def test_adapters_of_a_run_with_adapters_are_new(run_of: Callable[[GPT], InitialWeights]) -> None:
    model = randomized(replace(PLAIN, lora=2))
    started = loaded(model.config, run_of(model))
    torch.testing.assert_close(started(IDS), model(IDS), rtol=1e-5, atol=1e-5)
    assert all(not weight.any() for name, weight in weights_of(started).items() if name.endswith("lora_b"))


def test_value_head_is_kept_where_the_new_model_has_one(run_of: Callable[[GPT], InitialWeights]) -> None:
    model = randomized(replace(PLAIN, value_head=True))
    assert torch.equal(loaded(model.config, run_of(model)).values(IDS), model.values(IDS))


@pytest.mark.parametrize("lora", [None, 2])
def test_added_tokens_get_rows(run_of: Callable[[GPT], InitialWeights], lora: int | None) -> None:
    model, tokenizer = randomized(PLAIN), add_chat_tokens(TOKENIZER)
    config = replace(with_vocabulary(PLAIN, tokenizer.vocab_size), lora=lora)
    initial = run_of(model)
    started = loaded(config, initial, tokens=tokenizer.vocab_size)
    torch.testing.assert_close(started(IDS)[..., :11], model(IDS), rtol=1e-5, atol=1e-6)
    state = initial.initial_state(Settings(**{**vars(validated({})), "model": config}), tokenizer)
    assert state.weights["embed.weight"].shape == (15, 16)


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [(changes, tokens) for changes in ({"n_layer": 2}, {"n_embd": 32}, {"tied": True}) for tokens in (None, 15)]
    + [({"vocab_size": 15}, None)],
)
def test_model_of_another_shape_is_refused(
    run_of: Callable[[GPT], InitialWeights], changes: dict[str, int], tokens: int | None
) -> None:
    other = replace(with_vocabulary(PLAIN, tokens or 11), **changes)
    with pytest.raises(UserError, match=r"has shape|do not fit"):
        run_of(randomized(PLAIN)).weights(other, 0, tokens)
