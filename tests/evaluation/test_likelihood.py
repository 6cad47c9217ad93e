"""Log-probabilities of continuations: equal to a slow direct computation, whatever else is in the batch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.evaluation import likelihood
from fledge.evaluation.likelihood import Likelihood, Scorer
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer
from tiny import GPT2_PARTS, WORDS

CPU = Machine("cpu", "float32")
TOKENIZER = CharTokenizer("abcdefgé ", "<|endoftext|>")
CONFIG = ModelConfig(n_layer=2, n_head=2, n_embd=16, context=8, vocab_size=10, dropout=0.3)
CONFIGS = [CONFIG, replace(CONFIG, window=3, softcap=5.0), replace(CONFIG, bigram_rows=64, **GPT2_PARTS)]


def make_model(config: ModelConfig = CONFIG) -> GPT:
    model = build(config, 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


MODEL = make_model()
SCORER = Scorer(MODEL, TOKENIZER, CPU)
ids = st.lists(st.integers(0, 8), max_size=20)
pairs = st.tuples(ids, ids)


def directly(model: GPT, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One token at a time, with exactly the tokens before it that the rules allow."""
    model.eval()
    text, size = [*(context or [9]), *continuation], model.config.context
    before, total, greedy = len(text) - len(continuation), 0.0, True
    for position in range(before, len(text)):
        piece_end = min(before + ((position - before) // size + 1) * size, len(text))
        with torch.no_grad():
            logits = model(torch.tensor([text[max(0, piece_end - size - 1) : position]]))[0, -1].double()
        total += float(logits.log_softmax(-1)[text[position]])
        greedy &= int(logits.argmax()) == text[position]
    return total, greedy


def close(found: Likelihood, other: Likelihood) -> bool:
    return found == replace(other, logprob=pytest.approx(found.logprob, abs=1e-4))


@given(pair=pairs, config=st.sampled_from(CONFIGS))
@settings(max_examples=40)
def test_equals_a_slow_direct_computation(pair: tuple[list[int], list[int]], config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = make_model(config)
    (found,) = Scorer(model, TOKENIZER, CPU).score([pair])
    logprob, greedy = directly(model, *pair)
    assert found.logprob == pytest.approx(logprob, abs=1e-4)
    assert found.is_greedy is greedy
    assert found.tokens == len(pair[1])
    assert found.bytes == len(TOKENIZER.decode(pair[1]).encode())


@given(batch=st.lists(pairs, max_size=12), rows=st.integers(1, 40))
@settings(max_examples=40)
def test_result_does_not_depend_on_the_batch(batch: list[tuple[list[int], list[int]]], rows: int) -> None:
    alone = [SCORER.score([pair])[0] for pair in batch]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "MAX_TOKENS", {"cpu": rows})
        together = SCORER.score(batch)
    assert len(together) == len(batch)
    assert all(map(close, together, alone))


@given(pair=pairs, cut=st.integers(0, 20))
def test_parts_of_a_continuation_add_up(pair: tuple[list[int], list[int]], cut: int) -> None:
    context, continuation = pair[0][:3], pair[1][:4]  # nothing is cut off
    first, second = continuation[:cut], continuation[cut:]
    whole, *parts = SCORER.score([(context, continuation), (context, first), ((context or [9]) + first, second)])
    assert sum(part.logprob for part in parts) == pytest.approx(whole.logprob, abs=1e-4)
    assert all(part.is_greedy for part in parts) is whole.is_greedy
    assert sum(part.tokens for part in parts) == whole.tokens


def test_probabilities_of_all_continuations_add_up_to_one() -> None:
    found = SCORER.score([([1, 2], [a, b]) for a in range(10) for b in range(10)])
    assert sum(torch.tensor(each.logprob).exp() for each in found) == pytest.approx(1, abs=1e-5)
    assert 0 < sum(each.is_greedy for each in found) <= 1


def test_rolling_scores_each_token_of_a_long_text_once() -> None:
    text = TOKENIZER.encode("deaf faced cabbage fed a bad cafe").tolist()
    (found,) = SCORER.rolling([text])
    assert (found.tokens, found.bytes) == (len(text), len(text))
    assert found.logprob == pytest.approx(directly(MODEL, [], text)[0], abs=1e-4)


def test_spaces_at_the_end_of_a_context_go_to_the_continuation() -> None:
    tokenizer = HFTokenizer.train([" ".join(WORDS) * 20], 300, "<|endoftext|>")
    scorer = Scorer(build(replace(CONFIG, vocab_size=tokenizer.vocab_size), 0), tokenizer, CPU)
    assert scorer.encode_pair("the lazy ", "dog") == scorer.encode_pair("the lazy", " dog")
    assert scorer.encode_pair("the lazy", " dog") == (scorer.encode("the lazy"), scorer.encode(" dog"))


def test_empty_continuation_is_certain() -> None:
    assert SCORER.score([([1], []), ([], [])]) == [Likelihood(0.0, True, 0, 0)] * 2


@pytest.mark.parametrize("training", [True, False])
def test_scoring_restores_the_training_mode_and_draws_nothing(training: bool) -> None:
    model = make_model().train(training)
    before = torch.get_rng_state()
    scorer = Scorer(model, TOKENIZER, CPU)
    assert scorer.score([([1], [2, 3])]) == scorer.score([([1], [2, 3])])
    assert model.training is training
    assert torch.equal(before, torch.get_rng_state())


def test_ranks_share_the_batches_and_agree_on_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [([1, 2], [n % 9, 3]) for n in range(11)]
    monkeypatch.setattr(likelihood, "MAX_TOKENS", {"cpu": 9})
    parts: list[torch.Tensor] = []

    class Rank(World):
        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            parts.append(tensor.clone())
            return sum(parts, torch.zeros_like(tensor))

    found = [Scorer(MODEL, TOKENIZER, Machine("cpu", "float32", Rank(rank, 2))).score(batch) for rank in range(2)]
    assert found[1] == SCORER.score(batch)
    assert not torch.logical_and(*[(part != 0).any(1) for part in parts]).any(), "no pair is scored twice"
    assert all((part != 0).any(1).sum() > 3 for part in parts)


def test_bf16_is_close_to_fp32() -> None:
    batch = [([1, 2, 3], [4, 5]), ([], [7] * 11)]
    rough = Scorer(MODEL, TOKENIZER, Machine("cpu", "bfloat16")).score(batch)
    for found, exact in zip(rough, SCORER.score(batch), strict=True):
        assert found.logprob == pytest.approx(exact.logprob, rel=0.05)
