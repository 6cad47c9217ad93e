"""Past the end of the context by sliding: the text of a plain loop over the last `context` tokens."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from families import CONTEXT, FAMILIES, MODELS, V, make_model
from fledge.core.device import Machine
from fledge.inference import past_context
from fledge.inference.decoder import Decoder
from fledge.inference.decoder_reference import ReferenceDecoder
from fledge.inference.engine import Engine, run
from fledge.inference.fast_decoder import FastDecoder
from fledge.inference.graph_decoder import GraphDecoder
from fledge.inference.lean import LeanGPT
from fledge.inference.linear import LINEARS
from fledge.inference.request import Generation, Request, Sampling
from fledge.model.gpt import GPT
from fledge.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer("".join(chr(0x3B0 + i) for i in range(V - 1)), special="<|endoftext|>")
GREEDY = Sampling(temperature=0)
PROMPT = (5, 6, 7, 8, 9, 10, 11, 12)
COUNT = CONTEXT + 6
LENGTHS = (1, 9, CONTEXT, CONTEXT + 9)  # of the prompts


def make_engine(model: GPT, path: str = "plain", slots: int = 3, lag: int = 0) -> Engine:
    decoder: Decoder
    if path == "reference":
        decoder = ReferenceDecoder(model, slots, Machine("cpu", "float32"))
    else:
        lean = LeanGPT(model, torch.float32, LINEARS["plain"])
        decoder = GraphDecoder(lean, slots, "sdpa", path) if path == "graph" else FastDecoder(lean, slots, path)
    engine = Engine(decoder, TOKENIZER, prefill_chunk=5)
    engine.lag = lag
    return engine


def sliding(prompt: tuple[int, ...], count: int = COUNT, sampling: Sampling = GREEDY) -> Request:
    return Request(prompt, count, sampling, logprobs=2, when_full="slide", ignore_end_of_text=True)


def finish_all(engine: Engine) -> None:
    while engine.step():
        pass


def prompt_of(length: int) -> tuple[int, ...]:
    return tuple((7 * length + 5 * i) % 60 for i in range(length))


@cache
@torch.no_grad()
def plain_loop(model: GPT, prompt: tuple[int, ...], count: int) -> tuple[list[int], list[float]]:
    """→ greedy tokens and their log-probabilities"""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        logits = model(torch.tensor([ids[-model.config.context :]]))[0, -1]
        ids.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1).max()))
    return ids[len(prompt) :], logprobs


def assert_plain(generation: Generation, model: GPT) -> None:
    tokens, logprobs = plain_loop(model, generation.request.prompt, generation.request.max_tokens)
    assert (generation.finish_reason, generation.tokens) == ("length", tokens)
    assert [each.logprob for each in generation.logprobs] == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize(("path", "lag"), [("reference", 0), ("plain", 1), ("graph", 0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_lengths_equal_a_plain_loop(family: str, path: str, lag: int) -> None:
    """More requests than slots: they join, fill their context and leave at different times."""
    engine = make_engine(MODELS[family], path, lag=lag)
    generations = [engine.submit(sliding(prompt_of(length))) for length in LENGTHS]
    finish_all(engine)
    for generation in generations:
        assert_plain(generation, MODELS[family])


@pytest.mark.parametrize("context", [1, 2, 3])
@pytest.mark.parametrize("family", ["gpt2", "toygpt", "modern"])
def test_smallest_contexts(family: str, context: int) -> None:
    model = make_model(replace(FAMILIES[family], context=context))
    engine = make_engine(model)
    generations = [engine.submit(sliding((length,) * length, 12)) for length in (1, 2, 5)]
    finish_all(engine)
    for generation in generations:
        assert_plain(generation, model)


def test_full_rows_are_one_forward_or_several_within_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_context, "MAX_TOKENS", 2 * CONTEXT)
    engine, rows = make_engine(MODELS["gpt2"], slots=5), list[int]()
    recompute = engine.decoder.recompute
    engine.decoder.recompute = lambda ids: rows.append(len(ids)) or recompute(ids)  # type: ignore
    generations = [engine.submit(sliding(prompt_of(CONTEXT + i), 30)) for i in range(3)]
    generations.append(engine.submit(sliding((1,), 15)))  # in its own place among them, with room in its context
    finish_all(engine)
    assert set(rows) == {1, 2}
    for generation in generations:
        assert_plain(generation, MODELS["gpt2"])


def test_up_to_the_end_of_the_context_all_ways_agree() -> None:
    tokens = []
    for when_full in ("stop", "reread", "slide"):
        engine = make_engine(MODELS["gpt2"])
        request = replace(sliding(PROMPT), when_full=when_full)  # type: ignore[arg-type]
        tokens.append(finished(engine, request).tokens)
    stopped, reread, slid = tokens
    assert stopped == reread[: len(stopped)] == slid[: len(stopped)]
    assert reread != slid


def finished(engine: Engine, request: Request) -> Generation:
    generation = engine.submit(request)
    finish_all(engine)
    return generation


@pytest.mark.parametrize("lag", [0, 1])
def test_stop_string_past_the_context_and_streaming(lag: int) -> None:
    free = finished(make_engine(MODELS["gpt2"]), sliding(PROMPT, COUNT, Sampling(2.0, seed=1)))
    stop = free.text[CONTEXT : CONTEXT + 2]
    request = replace(free.request, stop=(stop,))
    chunks = list(run(make_engine(MODELS["gpt2"], lag=lag), request))
    assert free.text.index(stop) == CONTEXT  # that is: 32 tokens, of which the last 8 were drawn by sliding
    assert "".join(chunk.text for chunk in chunks) == free.text[:CONTEXT]
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


@pytest.mark.parametrize("lag", [0, 1])
def test_cancelled_while_sliding_leaves_a_working_slot_and_cache(lag: int) -> None:
    model = MODELS["text"]
    engine = make_engine(model, slots=2, lag=lag)
    cancelled, other = (engine.submit(sliding(prompt_of(length), 3 * CONTEXT)) for length in (CONTEXT, 4))
    for _ in range(CONTEXT + 8):
        engine.step()
    count = len(cancelled.tokens)
    engine.cancel(cancelled)
    again = engine.submit(sliding(prompt_of(CONTEXT)))  # its beginning is still in the cache
    finish_all(engine)
    assert (cancelled.finish_reason, len(cancelled.tokens)) == ("cancelled", count)
    assert engine.counters.reused_tokens >= CONTEXT - 2
    for generation in (again, other):
        assert_plain(generation, model)


def test_seeded_text_does_not_depend_on_its_neighbours() -> None:
    wanted = sliding(PROMPT, COUNT, Sampling(1.5, top_p=0.9, presence_penalty=0.5, seed=7))
    alone = finished(make_engine(MODELS["modern"]), wanted)
    engine = make_engine(MODELS["modern"])
    neighbours = [engine.submit(sliding(prompt_of(length), 5)) for length in (CONTEXT, 3)]
    assert finished(engine, wanted).tokens == alone.tokens
    assert [len(each.tokens) for each in neighbours] == [5, 5]


def test_failing_recomputation_ends_its_requests_and_the_engine_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    engine = make_engine(MODELS["gpt2"])
    failing = engine.submit(sliding(prompt_of(CONTEXT)))
    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "recompute", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            finish_all(engine)
    assert (failing.finish_reason, failing.error) == ("error", "out of memory")
    assert_plain(finished(engine, failing.request), MODELS["gpt2"])
