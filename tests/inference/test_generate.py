"""Generation: cached = uncached, past the end of the context, and streamed as text."""

from dataclasses import replace

import pytest
import torch

from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.inference.generate import generate, stream_text
from fledge.inference.sampler import sampling_strategies
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tokenizers.char import CharTokenizer

CPU = Machine("cpu", "float32")
TOKENIZER = CharTokenizer("abcdefghij \nä€", special="<|endoftext|>")
CONFIG = ModelConfig(n_layer=2, n_head=4, n_embd=32, context=16, vocab_size=TOKENIZER.vocab_size)
KINDS = {
    "rotary": CONFIG,
    "learned": replace(CONFIG, positions="learned", norm="layernorm", mlp="gelu"),
    "grouped": replace(CONFIG, n_kv_head=2),
    "readable": replace(CONFIG, attention="readable"),
}


def make_model(config: ModelConfig, seed: int = 0) -> GPT:
    model = build(config, seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(8)
    return model


def drawn(model: GPT, prompt: torch.Tensor, count: int, seed: int = 0, temperature: float = 0.0) -> torch.Tensor:
    return torch.stack(list(generate(model, prompt, sampling_strategies(temperature), CPU, count, seed)), dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 5])
def test_greedy_with_cache_equals_greedy_without(kind: str, length: int) -> None:
    model = make_model(KINDS[kind]).eval()
    prompt = torch.randint(CONFIG.vocab_size or 0, (3, length), generator=torch.Generator().manual_seed(1))
    ids = prompt
    with torch.no_grad():
        for _ in range(16 - length):
            ids = torch.cat((ids, model(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(drawn(model, prompt, 16 - length), ids[:, length:])
    assert len(ids[:, length:].unique()) > 1


@pytest.mark.parametrize("context", [1, 2, 3, 8])
@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_generation_past_the_context_equals_uncached(kind: str, context: int) -> None:
    """Computed without a cache: a window that grows to the context, and is then cut to its newer half."""
    model = make_model(replace(KINDS[kind], context=context)).eval()
    window = torch.tensor([[3]])
    expected = []
    with torch.no_grad():
        for _ in range(4 * context + 3):
            if window.shape[1] > context:
                window = window[:, -(context // 2 or 1) :]
            token = model(window)[:, -1].argmax(-1, keepdim=True)
            expected.append(int(token))
            window = torch.cat((window, token), dim=1)
    assert drawn(model, torch.tensor([[3]]), 4 * context + 3)[0].tolist() == expected


@pytest.mark.parametrize("length", [15, 16, 17, 40])
def test_long_prompt_keeps_its_end(length: int) -> None:
    model = make_model(CONFIG).eval()
    prompt = torch.randint(CONFIG.vocab_size or 0, (1, length), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        best = model(prompt[:, -16:])[:, -1].argmax(-1)
    assert drawn(model, prompt, 5)[0, 0] == best


def test_tokens_depend_on_the_seed_only() -> None:
    model = make_model(CONFIG)
    prompt = torch.tensor([[1, 2, 3]])
    one = drawn(model, prompt, 40, seed=1, temperature=1.0)
    torch.rand(10)
    assert torch.equal(one, drawn(model, prompt, 40, seed=1, temperature=1.0))
    assert not torch.equal(one, drawn(model, prompt, 40, seed=2, temperature=1.0))


def test_generation_leaves_the_global_rng_unchanged() -> None:
    """Samples during training must not change the training."""
    model = make_model(replace(CONFIG, dropout=0.5))
    before = torch.get_rng_state()
    drawn(model, torch.tensor([[1]]), 30, temperature=1.0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("training", [True, False])
def test_generation_restores_the_training_mode(training: bool) -> None:
    model = make_model(replace(CONFIG, dropout=0.5)).train(training)
    one, two = (drawn(model, torch.tensor([[1]]), 10) for _ in range(2))
    assert torch.equal(one, two)
    assert model.training is training


def test_batched_rows_equal_each_alone() -> None:
    model = make_model(CONFIG)
    prompts = torch.tensor([[1, 2, 3], [7, 8, 9]])
    together = drawn(model, prompts, 30)
    for row in range(2):
        assert torch.equal(together[row], drawn(model, prompts[[row]], 30)[0])


def text_of(prompt: str, count: int, seed: int = 0, model: GPT | None = None, temperature: float = 1.5) -> list[str]:
    return list(
        stream_text(model or make_model(CONFIG), TOKENIZER, prompt, sampling_strategies(temperature), CPU, count, seed)
    )


def test_streamed_pieces_join_to_the_text() -> None:
    ids = torch.tensor([TOKENIZER.encode("abc").tolist()])
    tokens = drawn(make_model(CONFIG), ids, 60, seed=3, temperature=1.5)[0].tolist()
    ends = [i for i, token in enumerate(tokens) if token == TOKENIZER.end_of_text]
    pieces = text_of("abc", 60, seed=3)
    assert "".join(pieces) == TOKENIZER.decode(tokens[: ends[0]] if ends else tokens)
    assert len(pieces) > 1


def test_stream_stops_at_end_of_text() -> None:
    assert TOKENIZER.end_of_text is not None
    for seed in range(10):
        ids = torch.tensor([TOKENIZER.encode("a").tolist()])
        tokens = drawn(make_model(CONFIG), ids, 60, seed, temperature=3.0)[0].tolist()
        if TOKENIZER.end_of_text in tokens:
            before = tokens[: tokens.index(TOKENIZER.end_of_text)]
            assert "".join(text_of("a", 60, seed, temperature=3.0)) == TOKENIZER.decode(before)
            return
    pytest.fail("no seed ended its text")


@pytest.mark.parametrize("special", ["<|endoftext|>", None])
def test_empty_prompt_starts_like_a_document(special: str | None) -> None:
    tokenizer = CharTokenizer("abc", special=special)
    model = make_model(replace(CONFIG, vocab_size=tokenizer.vocab_size))
    first = tokenizer.end_of_text if special else 0
    tokens = drawn(model, torch.tensor([[first]]), 12, seed=5, temperature=1.0)[0].tolist()
    expected = tokens[: tokens.index(3)] if special and 3 in tokens else tokens
    assert "".join(stream_text(model, tokenizer, "", sampling_strategies(1.0), CPU, 12, 5)) == tokenizer.decode(
        expected
    )


def test_unknown_character_in_the_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="Z"):
        text_of("aZ", 3)


def test_ids_beyond_the_tokenizer_are_never_drawn() -> None:
    """The vocabulary of a model may be padded to a round number; the padding is never drawn."""
    model = make_model(replace(CONFIG, vocab_size=TOKENIZER.vocab_size + 50))
    for seed in range(5):
        assert set("".join(text_of("a", 40, seed, model, temperature=3.0))) <= set(TOKENIZER.characters)


def test_zero_tokens_give_no_text() -> None:
    assert text_of("abc", 0) == []
