"""The offline suite: chance for who knows nothing, more for who has learned, and always the same items."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from fledge.core.device import Machine
from fledge.evaluation.likelihood import Scorer
from fledge.losses.cross_entropy import cross_entropy_sum
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tasks import python_text
from fledge.tasks.offline import BITS, INDUCTION, OFFLINE_TASKS, run_offline
from fledge.tasks.python_text import KINDS, python_texts
from fledge.tasks.results import TaskResult
from fledge.tasks.templates import TEMPLATES, Template
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.hf import HFTokenizer

CPU = Machine("cpu", "float32")
CHARACTERS = ["\n", *map(chr, range(32, 127))]
CHAR = CharTokenizer(CHARACTERS, "<|endoftext|>")
CHOICE = [name for name in OFFLINE_TASKS if name not in BITS]


@cache
def bpe() -> Tokenizer:
    return HFTokenizer.train([text for kind in KINDS for text in python_texts()[kind]], 600, "<|endoftext|>")


def make(tokenizer: Tokenizer, seed: int = 0, context: int = 128) -> GPT:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": context, "vocab_size": tokenizer.vocab_size}
    return build(ModelConfig(**shape, tied=bool(seed % 2)), seed)


def run(name: str, model: GPT, tokenizer: Tokenizer) -> TaskResult:
    return run_offline(name, Scorer(model, tokenizer, CPU))


@pytest.mark.parametrize("name", CHOICE)
def test_untrained_models_score_chance(name: str) -> None:
    """In 19 of 20 cases, by the meaning of the interval. The models: random weights, with and without tied ones."""
    tokenizers = (CHAR, bpe())
    found = [run(name, make(tokenizer, seed), tokenizer) for tokenizer in tokenizers for seed in range(4)]
    within = [each.low <= each.chance <= each.high for each in found if None not in (each.low, each.high)]
    assert len(within) == 8
    assert sum(within) >= 7
    assert {each.items >= 90 and each.skipped == 0 for each in found} == {True}
    differences = np.array([each.score - each.chance for each in found])
    assert abs(differences.mean()) < 0.03


@pytest.mark.parametrize("name", CHOICE)
def test_a_model_without_preferences_scores_exactly_chance(name: str) -> None:
    model = make(CHAR)
    with torch.no_grad():
        model.head.weight.zero_()
    found = run(name, model, CHAR)
    assert found.metrics["accuracy_per_token"] == pytest.approx(found.chance)
    assert found.low < found.chance < found.high
    assert found.beats_chance is False


@pytest.mark.parametrize("name", BITS)
def test_untrained_models_know_no_token_frequencies(name: str) -> None:
    for tokenizer in (CHAR, bpe()):
        found = run(name, make(tokenizer), tokenizer)
        assert found.beats_chance is False
        assert found.low > found.chance
        assert found.score == pytest.approx(found.metrics["uniform_guess"], rel=0.03)
        assert found.metrics["bytes"] > 5000


def test_bits_per_byte_of_a_uniform_model_is_that_of_a_uniform_guess() -> None:
    model = make(CHAR)
    with torch.no_grad():
        model.head.weight.zero_()
    found = run("bits-per-byte-code", model, CHAR)
    assert found.score == pytest.approx(math.log2(CHAR.vocab_size), rel=1e-5)
    assert found.metrics["uniform_guess"] == pytest.approx(found.score, rel=1e-5)


def test_suite_is_always_the_same() -> None:
    model = make(CHAR)
    for name in ("copying", INDUCTION, "bits-per-byte-prose"):
        first = run(name, model, CHAR)
        python_texts.cache_clear()
        assert run(name, model, CHAR) == first


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_each_continuation_belongs_to_one_context(template: Template) -> None:
    blocks = template.texts()
    assert len({str(block) for block in blocks}) == len(blocks) == template.blocks
    for contexts, continuations in blocks:
        assert len(contexts) == len(continuations) == len(set(contexts)) == len(set(continuations))
        starts = [(a, b) for a in continuations for b in continuations if a != b]
        assert not any(b.startswith(a) for a, b in starts), "the shorter one would be at least as likely"


def test_templates_hold_what_they_claim() -> None:
    blocks = {template.name: template.texts() for template in TEMPLATES}
    for name in ("addition-1-digit", "addition-2-digits"):
        for contexts, answers in blocks[name]:
            for context, answer in zip(contexts, answers, strict=True):
                *solved, asked = context.split("\n")
                for line in (*solved, asked + answer):
                    a, _, b, _, total = line.split()
                    assert int(a) + int(b) == int(total)
            assert len({len(answer) for answer in answers}) == 1
    for contexts, words in blocks["copying"]:
        for context, word in zip(contexts, words, strict=True):
            line, again = context.split("\n")
            assert line.startswith(again + word)
    for contexts, closings in blocks["brackets"]:
        for context, closing in zip(contexts, closings, strict=True):
            compile(context.split(" = ")[1] + closing, "test", "eval")


def test_items_that_cannot_be_encoded_or_do_not_fit_are_counted() -> None:
    letters = CharTokenizer([c for c in CHARACTERS if not c.isdigit()], None)
    found = run("addition-1-digit", make(letters), letters)
    assert (found.items, found.skipped) == (0, 96)
    assert math.isnan(found.score)
    assert found.beats_chance is None
    small = make(CHAR, context=26)
    found = run("agreement", small, CHAR)
    assert found.items + found.skipped == 120
    assert 0 < found.items < 120
    assert found.items % 2 == 0, "half of a block has another chance level"
    assert run(INDUCTION, make(CHAR, context=8), CHAR).items == 0


def test_without_the_standard_library_there_are_no_excerpts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_text, "python_library", lambda: iter([]))
    python_texts.cache_clear()
    found = run("bits-per-byte-prose", make(CHAR), CHAR)
    python_texts.cache_clear()
    assert (found.items, found.beats_chance) == (0, None)
    assert math.isnan(found.score)
    assert math.isnan(found.chance)


def test_python_texts_are_of_their_kind() -> None:
    texts = python_texts()
    assert {kind: len(each) > 10 for kind, each in texts.items()} == dict.fromkeys(KINDS, True)
    for code in texts["code"]:
        compile(code, "code", "exec", dont_inherit=True)
        assert not any(line.lstrip().startswith("#") for line in code.splitlines())
    assert all(line.startswith("#") for text in texts["comments"] for line in text.splitlines())


def test_a_model_that_has_learned_agreement_beats_chance() -> None:
    """Trained on sentences like those of the task, it masters that task, and no other."""
    tokenizer, name = bpe(), "agreement"
    template = next(template for template in TEMPLATES if template.name == name)
    model, end = make(tokenizer, context=24), tokenizer.end_of_text
    texts = [a + b for contexts, ends in template.texts() for a, b in zip(contexts, ends, strict=True)]
    rows = [[end, *tokenizer.encode(text).tolist(), *[end] * 24][:24] for text in texts]
    ids, optimizer = torch.tensor(rows), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        batch = ids[torch.randint(len(ids), (32,))]
        loss = cross_entropy_sum(model(batch[:, :-1]), batch[:, 1:]) / batch[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = run(name, model, tokenizer)
    assert found.items > 60
    assert found.beats_chance
    assert found.score > 0.8
    assert not run(INDUCTION, model, tokenizer).beats_chance
