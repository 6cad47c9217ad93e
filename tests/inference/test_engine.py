"""The engine: a request's tokens do not depend on its neighbours, and every request ends in the right way."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from families import CONTEXT, FAMILIES, MODELS, V
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.inference.decoder import Decoder
from fledge.inference.decoder_reference import ReferenceDecoder
from fledge.inference.engine import Engine, run
from fledge.inference.fast_decoder import FastDecoder
from fledge.inference.lean import LeanGPT
from fledge.inference.linear import LINEARS
from fledge.inference.request import Generation, Request, Sampling
from fledge.model.gpt import GPT
from fledge.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer("".join(chr(0x3B0 + i) for i in range(V - 1)), special="<|endoftext|>")
GREEDY = Sampling(temperature=0)
PROMPT = (5, 6, 7, 8, 9, 10, 11, 12)


class Watched:
    """A decoder that counts the tokens that it computes, and can fail on purpose."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.name, self.config, self.device, self.slots = decoder.name, decoder.config, decoder.device, decoder.slots
        self.head, self.copy_prefix, self.recompute = decoder.head, decoder.copy_prefix, decoder.recompute
        self.prefilled: list[int] = []
        self.rows: list[int] = []
        self.bad_prefill: int | None = None  # a token at which prefill fails
        self.bad_row: int | None = None  # a row that gives NaN

    def prefill(self, slot: int, start: int, ids: Tensor) -> Tensor:
        if self.bad_prefill in ids.tolist():
            raise RuntimeError("prefill failed")
        self.prefilled += ids.tolist()
        return self.decoder.prefill(slot, start, ids)

    def decode(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        self.rows.append(len(lengths))
        assert all(0 <= length < self.config.context for length in lengths)
        logits = self.decoder.decode(tokens, lengths)
        if self.bad_row is not None and self.bad_row < len(logits):
            logits = logits.clone()
            logits[self.bad_row] = float("nan")
        return logits


def make_engine(family: str = "modern", slots: int = 3, chunk: int = 256, lag: int = 0, fast: bool = False) -> Engine:
    model = MODELS[family]
    decoder: Decoder = ReferenceDecoder(model, slots, Machine("cpu", "float32"))
    if fast:
        decoder = FastDecoder(LeanGPT(model, torch.float32, LINEARS["plain"]), slots, "plain")
    engine = Engine(Watched(decoder), TOKENIZER, prefill_chunk=chunk)
    engine.lag = lag
    return engine


def watched(engine: Engine) -> Watched:
    assert isinstance(engine.decoder, Watched)
    return engine.decoder


def finish_all(engine: Engine) -> None:
    for _ in range(2000):
        if not engine.step():
            assert engine.active == engine.waiting == 0
            return
    pytest.fail("the engine never finished")


def generate(engine: Engine, request: Request) -> Generation:
    generation = engine.submit(request)
    finish_all(engine)
    return generation


@torch.no_grad()
def uncached(model: GPT, request: Request) -> tuple[list[int], bool]:
    """Greedy tokens by the whole model, one call for each token; stops where the two best logits are too close."""
    text, tokens = list(request.prompt)[-CONTEXT:], list[int]()
    while len(tokens) < request.max_tokens:
        if len(text) > CONTEXT:
            if request.when_full == "stop":
                break
            text = text[-CONTEXT if request.when_full == "slide" else -CONTEXT // 2 :]
        best = model(torch.tensor([text]))[0, -1].topk(2)
        if best.values[0] - best.values[1] < 1e-4:
            return tokens, False
        tokens.append(int(best.indices[0]))
        text.append(tokens[-1])
    return tokens, True


PROMPTS = st.one_of(
    st.lists(st.integers(0, V - 1), min_size=1, max_size=CONTEXT),
    st.integers(1, len(PROMPT)).map(lambda n: list(PROMPT[:n])),  # prompts that share a prefix
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    return Request(
        tuple(draw(PROMPTS)),
        draw(st.integers(0, 14)),
        GREEDY,
        when_full=draw(st.sampled_from(["stop", "reread", "slide"])),
        ignore_end_of_text=True,
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(data=st.data())
def test_tokens_are_those_of_the_model_alone(family: str, data: st.DataObject) -> None:
    """Batched, cached, prefilled in chunks, with requests that join, leave and are cancelled at random."""
    engine = make_engine(
        family,
        slots=data.draw(st.integers(1, 4), "slots"),
        chunk=data.draw(st.integers(1, 9), "chunk"),
        lag=data.draw(st.integers(0, 1), "lag"),
        fast=data.draw(st.booleans(), "fast"),
    )
    generations: list[Generation] = []
    for request in data.draw(st.lists(requests(), min_size=2, max_size=7), "requests"):
        generations.append(engine.submit(request))
        for _ in range(data.draw(st.integers(0, 6), "steps")):
            engine.step()
        if data.draw(st.integers(0, 3), "cancel") == 0:
            engine.cancel(data.draw(st.sampled_from(generations), "cancelled"))
    finish_all(engine)
    for generation in generations:
        expected, certain = uncached(MODELS[family], generation.request)
        assert generation.tokens[: len(expected)] == expected[: len(generation.tokens)]
        if generation.finish_reason != "cancelled":
            assert generation.finish_reason == "length"
            assert len(generation.tokens) == len(expected) or not certain
            assert generation.text == TOKENIZER.decode(generation.tokens)
            assert generation.tokens == [token for chunk in generation.take() for token in chunk.tokens]


@given(
    settings_of_neighbours=st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.0, 0.7, 2.0]),
            top_k=st.sampled_from([None, 3, 50]),
            top_p=st.sampled_from([None, 0.5]),
            frequency_penalty=st.sampled_from([0.0, 1.0]),
            logit_bias=st.sampled_from([{}, {3: -100}]),
            seed=st.integers(0, 2**70),
        ),
        max_size=5,
    ),
    lag=st.integers(0, 1),
    position=st.integers(0, 5),
)
@settings(max_examples=20)
def test_text_depends_on_its_own_seed_only(settings_of_neighbours: list[Sampling], lag: int, position: int) -> None:
    wanted = Request(PROMPT, 12, Sampling(temperature=1.5, top_p=0.9, presence_penalty=0.5, seed=7))
    alone = generate(make_engine(), wanted)
    engine = make_engine(slots=4, lag=lag)
    neighbours = [Request(PROMPT[:i] or (1,), 10, s) for i, s in enumerate(settings_of_neighbours)]
    everybody = [engine.submit(each) for each in (*neighbours[:position], wanted, *neighbours[position:])]
    finish_all(engine)
    assert everybody[min(position, len(neighbours))].tokens == alone.tokens


@pytest.mark.parametrize("lag", [0, 1])
def test_penalties_count_only_what_was_drawn(lag: int) -> None:
    """While a prompt is read in chunks, the rows of the others go on, and its own row computes nothing of use."""
    sampling = Sampling(temperature=0, presence_penalty=2, frequency_penalty=0.5)
    wanted = Request(PROMPT, 3 * CONTEXT, sampling, when_full="reread", ignore_end_of_text=True)
    engine = make_engine(slots=2, chunk=1, lag=lag)
    engine.submit(Request((1,), 3, GREEDY, ignore_end_of_text=True))  # the next but one gets its slot
    engine.submit(Request((2,), 9 * CONTEXT, GREEDY, when_full="reread", ignore_end_of_text=True))
    assert generate(engine, wanted).tokens == generate(make_engine(), wanted).tokens


def test_different_seeds_give_different_texts() -> None:
    engine = make_engine(slots=2)
    texts = {tuple(generate(engine, Request(PROMPT, 12, Sampling(2.0, seed=seed))).tokens) for seed in range(20)}
    assert len(texts) > 15


@pytest.mark.parametrize("lag", [0, 1])
def test_samples_of_one_prompt_share_its_computation(lag: int) -> None:
    engine = make_engine(slots=4, lag=lag)
    together = [engine.submit(Request(PROMPT, 6, Sampling(1.5, seed=seed))) for seed in range(4)]
    finish_all(engine)
    assert len(watched(engine).prefilled) == len(PROMPT) + 3  # the last token of the prompt is always computed
    assert engine.counters.reused_tokens == 3 * (len(PROMPT) - 1)
    for seed, generation in enumerate(together):
        assert generation.tokens == generate(make_engine(), Request(PROMPT, 6, Sampling(1.5, seed=seed))).tokens


@pytest.mark.parametrize("lag", [0, 1])
def test_next_turn_computes_only_what_is_new(lag: int) -> None:
    engine = make_engine(slots=2, lag=lag)
    first = generate(engine, Request(PROMPT, 6, GREEDY, ignore_end_of_text=True))
    watched(engine).prefilled.clear()
    prompt = (*PROMPT, *first.tokens, 20, 21)
    second = generate(engine, Request(prompt, 4, GREEDY, ignore_end_of_text=True))
    assert watched(engine).prefilled == [first.tokens[-1], 20, 21]
    alone = generate(make_engine(), second.request)
    assert second.tokens == alone.tokens


def test_interleaved_conversations_keep_their_caches() -> None:
    engine = make_engine(slots=3)
    conversations = [(1, 2, 3, 4, 5), (9, 8, 7, 6, 5)]
    for turn in range(3):
        for i, prompt in enumerate(conversations):
            watched(engine).prefilled.clear()
            answer = generate(engine, Request(prompt, 3, GREEDY, ignore_end_of_text=True))
            assert turn == 0 or watched(engine).prefilled == list(prompt[-3:])
            conversations[i] = (*prompt, *answer.tokens, 30 + turn, 40 + turn)
    assert max(watched(engine).rows) == 1  # one stream at a time never pays for more rows


def test_rows_shrink_when_requests_leave() -> None:
    engine = make_engine(slots=4)
    lengths = [2, 2, 2, 12]
    generations = [
        engine.submit(Request((i + 1, 2, 3), n, Sampling(1.0, seed=i), ignore_end_of_text=True))
        for i, n in enumerate(lengths)
    ]
    finish_all(engine)
    assert watched(engine).rows[-1] == 1
    alone = generate(make_engine(), generations[3].request)
    assert generations[3].tokens == alone.tokens


def test_long_prompt_does_not_hold_up_running_requests() -> None:
    engine = make_engine(slots=2, chunk=2)
    running = engine.submit(Request((1,), 20, GREEDY, ignore_end_of_text=True))
    engine.step()
    late = engine.submit(Request(tuple(range(10)), 1, GREEDY))
    for step in range(1, 5):
        before = len(running.tokens)
        engine.step()
        assert len(running.tokens) == before + 1
        assert len(watched(engine).prefilled) == 1 + 2 * step
    assert late.tokens == []


def test_requests_start_in_the_order_of_arrival() -> None:
    engine = make_engine(slots=1)
    generations = [engine.submit(Request((i + 1,), 2, GREEDY)) for i in range(4)]
    ended: list[Generation] = []
    while engine.step():
        ended += [g for g in generations if g.finish_reason is not None and g not in ended]
    ended += [g for g in generations if g not in ended]
    assert ended == generations


# Ends


@pytest.mark.parametrize("lag", [0, 1])
def test_end_of_text_ends_with_stop_and_gives_no_text(lag: int) -> None:
    end = TOKENIZER.end_of_text
    assert end is not None
    forced = Sampling(0, logit_bias={end: 100})
    generation = generate(make_engine(lag=lag), Request(PROMPT, 5, forced))
    assert (generation.finish_reason, generation.text, generation.tokens) == ("stop", "", [end])
    ignored = generate(make_engine(lag=lag), Request(PROMPT, 5, forced, ignore_end_of_text=True))
    assert (ignored.finish_reason, ignored.text, ignored.tokens) == ("length", "", [end] * 5)


def test_stop_token_ends_like_end_of_text() -> None:
    free = generate(make_engine(), Request(PROMPT, 8, GREEDY))
    stop = free.tokens[3]
    stopped = generate(make_engine(), Request(PROMPT, 8, GREEDY, stop_tokens=(stop,)))
    first = free.tokens.index(stop)
    assert (stopped.finish_reason, stopped.tokens) == ("stop", free.tokens[: first + 1])
    assert stopped.text == TOKENIZER.decode(free.tokens[:first])


@pytest.mark.parametrize("lag", [0, 1])
def test_stop_string_across_tokens(lag: int) -> None:
    free = generate(make_engine(), Request(PROMPT, 10, Sampling(2.0, seed=1), ignore_end_of_text=True))
    stop = free.text[4:7]
    engine = make_engine(lag=lag)
    stopped = engine.submit(Request(PROMPT, 10, Sampling(2.0, seed=1), stop=(stop,), ignore_end_of_text=True))
    finish_all(engine)
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    chunks = stopped.take()
    assert "".join(chunk.text for chunk in chunks) == stopped.text
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


def test_held_text_appears_when_the_limit_ends_it() -> None:
    free = generate(make_engine(), Request(PROMPT, 6, GREEDY, ignore_end_of_text=True))
    held = generate(make_engine(), Request(PROMPT, 6, GREEDY, stop=(free.text[-2:] + "x",), ignore_end_of_text=True))
    assert (held.text, held.finish_reason) == (free.text, "length")


@pytest.mark.parametrize("length", [1, CONTEXT - 1, CONTEXT])
def test_full_context_ends_with_length(length: int) -> None:
    generation = generate(make_engine(), Request((3,) * length, 100, GREEDY, ignore_end_of_text=True))
    assert generation.finish_reason == "length"
    assert len(generation.tokens) == CONTEXT + 1 - length


def test_no_tokens_wanted() -> None:
    generation = generate(make_engine(), Request(PROMPT, 0, GREEDY, prompt_logprobs=True))
    assert (generation.finish_reason, generation.tokens, generation.text) == ("length", [], "")
    assert len(generation.prompt_logprobs) == len(PROMPT) - 1
    assert [chunk.finish_reason for chunk in generation.take()] == ["length"]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_cancel_frees_the_slot_at_once(steps: int, lag: int) -> None:
    engine = make_engine(slots=1, chunk=4, lag=lag)
    generation = engine.submit(Request(PROMPT, 100, GREEDY, when_full="reread", ignore_end_of_text=True))
    for _ in range(steps):
        engine.step()
    engine.cancel(generation)
    engine.cancel(generation)
    count = len(generation.tokens)
    assert generation.finish_reason == "cancelled"
    assert engine.active == engine.waiting == 0
    after = generate(engine, Request((4, 5), 5, GREEDY, ignore_end_of_text=True))
    assert after.tokens == generate(make_engine(), after.request).tokens
    assert len(generation.tokens) == count
    assert [chunk.finish_reason for chunk in generation.take()].count("cancelled") == 1


def test_leaving_the_loop_cancels() -> None:
    engine = make_engine()
    chunks = run(engine, Request(PROMPT, 100, GREEDY))
    next(chunks)
    assert engine.active == 1
    chunks.close()  # type: ignore[attr-defined]
    assert engine.active == 0


# Log-probabilities


@pytest.mark.parametrize("chunk", [3, 256])
def test_logprobs_are_those_of_the_model(chunk: int) -> None:
    sampling = Sampling(2.0, top_k=3, frequency_penalty=1.0, seed=3)  # changes no log-probability
    request = Request(PROMPT, 6, sampling, logprobs=4, prompt_logprobs=True, ignore_end_of_text=True)
    generation = generate(make_engine(chunk=chunk), request)
    text = [*PROMPT, *generation.tokens]
    with torch.no_grad():
        expected = MODELS["modern"](torch.tensor([text]))[0].log_softmax(-1)
    found = [*generation.prompt_logprobs, *generation.logprobs]
    assert [each.token for each in found] == text[1:]
    for position, each in enumerate(found):
        assert each.logprob == pytest.approx(float(expected[position, each.token]), abs=1e-4)
        best = expected[position].topk(4)
        assert [token for token, _ in each.top] == best.indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_each_request_gets_the_alternatives_it_asked_for() -> None:
    engine = make_engine()
    asked = (None, 0, 2, 1000)
    generations = [engine.submit(Request(PROMPT, 3, GREEDY, logprobs=n, ignore_end_of_text=True)) for n in asked]
    finish_all(engine)
    assert [[len(each.top) for each in g.logprobs] for g in generations] == [[], [0] * 3, [2] * 3, [V] * 3]


# Errors


@pytest.mark.parametrize("lag", [0, 1])
def test_non_finite_logits_end_one_request_only(lag: int) -> None:
    engine = make_engine(slots=2, lag=lag)
    generations = [engine.submit(Request((i + 1, 2), 6, GREEDY, ignore_end_of_text=True)) for i in range(2)]
    engine.step()
    watched(engine).bad_row = 1
    while engine.step():
        if generations[1].finish_reason is not None:
            watched(engine).bad_row = None
    assert [g.finish_reason for g in generations] == ["length", "error"]
    assert "not finite" in str(generations[1].error)
    assert generations[0].tokens == generate(make_engine(), generations[0].request).tokens


def test_failing_prefill_ends_one_request_only() -> None:
    engine = make_engine(slots=2, chunk=2)
    watched(engine).bad_prefill = 33
    generations = [engine.submit(Request(p, 3, GREEDY)) for p in ((1, 2, 3, 33), (1, 2, 3, 4))]
    finish_all(engine)
    assert [g.finish_reason for g in generations] == ["error", "length"]
    assert generations[0].error == "prefill failed"


def test_failing_decode_leaves_a_working_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(slots=2)
    failing = [engine.submit(Request((i + 1,), 9, GREEDY)) for i in range(2)]
    engine.step()
    with monkeypatch.context() as patch:

        def fail(*_: Any) -> Tensor:
            raise RuntimeError("decode failed")

        patch.setattr(engine.decoder, "decode", fail)
        with pytest.raises(RuntimeError, match="decode failed"):
            engine.step()
    assert [g.finish_reason for g in failing] == ["error", "error"]
    assert generate(engine, Request(PROMPT, 3, GREEDY)).finish_reason == "length"


def fail(*_: Any) -> Any:
    raise RuntimeError("the device failed")


@pytest.mark.parametrize("lag", [0, 1])
def test_failing_sampler_ends_the_requests_that_decode(lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(slots=2, lag=lag)
    failing = [engine.submit(Request((i + 1,), 9, GREEDY)) for i in range(2)]
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine._sampler, "sample", fail)
        with pytest.raises(RuntimeError, match="the device failed"):
            engine.step()
    assert [g.finish_reason for g in failing] == ["error", "error"]
    assert generate(engine, Request(PROMPT, 3, GREEDY)).finish_reason == "length"


def test_token_that_never_arrives_ends_its_request() -> None:
    """Errors of a GPU appear when its results are fetched."""
    engine = make_engine(slots=2, lag=1)
    failing = engine.submit(Request(PROMPT, 1, GREEDY))
    engine._prefill()
    engine._drawn[0] = replace(engine._drawn[0], ready=SimpleNamespace(synchronize=fail))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the device failed"):
        finish_all(engine)
    assert (failing.finish_reason, engine.active) == ("error", 0)
    assert generate(engine, Request(PROMPT, 3, GREEDY)).finish_reason == "length"


def test_failing_copy_of_a_prefix_ends_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(slots=2)
    running = engine.submit(Request(PROMPT, 9, GREEDY))
    engine.step()
    failing, expected = engine.submit(Request(PROMPT, 9, GREEDY)), generate(make_engine(), Request(PROMPT, 9, GREEDY))
    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "copy_prefix", fail)
        with pytest.raises(RuntimeError, match="the device failed"):
            engine.step()
    assert failing.finish_reason == "error"
    finish_all(engine)
    assert running.tokens == expected.tokens


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"prompt": ()}, "empty"),
        ({"prompt": (V,)}, "vocabulary"),
        ({"prompt": (-1,)}, "vocabulary"),
        ({"prompt": (1,) * (CONTEXT + 1)}, "context"),
        ({"prompt": (1,) * (CONTEXT + 1), "when_full": "reread", "prompt_logprobs": True}, "context"),
        ({"when_full": "grow"}, "past-context"),
        ({"max_tokens": -1}, "number of tokens"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": ("",)}, "stop string"),
        ({"sampling": {"temperature": float("nan")}}, "temperature"),
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"sampling": {"temperature": float("inf")}}, "temperature"),
        ({"sampling": {"repetition_penalty": 1e-40}}, "repetition penalty"),
        ({"sampling": {"presence_penalty": 1e39}}, "presence penalty"),  # infinite in float32
        ({"sampling": {"top_k": 0}}, "top-k"),
        ({"sampling": {"top_p": 0.0}}, "top-p"),
        ({"sampling": {"top_p": float("nan")}}, "top-p"),
        ({"sampling": {"min_p": 1.5}}, "min-p"),
        ({"sampling": {"repetition_penalty": 0.0}}, "repetition"),
        ({"sampling": {"presence_penalty": float("inf")}}, "presence"),
        ({"sampling": {"frequency_penalty": float("nan")}}, "frequency"),
        ({"sampling": {"logit_bias": {V: 1}}}, "vocabulary"),
        ({"sampling": {"logit_bias": {1: 101}}}, "bias"),
        ({"sampling": {"logit_bias": dict.fromkeys(range(V), -100)}}, "every token"),
    ],
)
def test_impossible_requests_are_refused(wrong: dict[str, Any], named: str) -> None:
    engine = make_engine()

    def submit() -> None:
        sampling = Sampling(**wrong.get("sampling", {}))
        engine.submit(Request(**{"prompt": PROMPT, "max_tokens": 3, **wrong, "sampling": sampling}))

    with pytest.raises(UserError, match=named):
        submit()
    assert engine.waiting == 0


def test_extreme_settings_are_served() -> None:
    engine = make_engine(slots=2)
    for sampling in (Sampling(1e300, seed=-5), Sampling(1e-300), Sampling(1.0, top_k=10**12, top_p=1e-300, min_p=1.0)):
        assert generate(engine, Request(PROMPT, 4, sampling, ignore_end_of_text=True)).finish_reason == "length"
    assert generate(engine, Request(PROMPT, 10**18, GREEDY)).finish_reason in ("length", "stop")
