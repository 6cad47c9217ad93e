"""The engine on a GPU: results arrive a step late, and are those of each request alone."""

import pytest
import torch

from families import MODELS, V
from fledge.core.device import Machine
from fledge.inference.decoder_reference import ReferenceDecoder
from fledge.inference.engine import Engine
from fledge.inference.request import Generation, PastContext, Request, Sampling
from fledge.tokenizers.char import CharTokenizer

TOKENIZER = CharTokenizer("".join(chr(0x3B0 + i) for i in range(V - 1)), special="<|endoftext|>")
SAMPLINGS = (
    Sampling(0),
    Sampling(1.0, seed=1),
    Sampling(1.5, top_k=20, top_p=0.9, seed=2),
    Sampling(1.0, min_p=0.02, presence_penalty=0.5, logit_bias={3: -100}, seed=3),
    Sampling(1.0, repetition_penalty=1.2, seed=4),
)


def generate(engine: Engine, requests: list[Request]) -> list[Generation]:
    generations = [engine.submit(request) for request in requests]
    while engine.step():
        pass
    return generations


@pytest.fixture(params=["float32"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_engine(machine: Machine, slots: int) -> Engine:
    model = MODELS["gpt2"].to(machine.device)
    return Engine(ReferenceDecoder(model, slots, machine), TOKENIZER, prefill_chunk=5)


def test_requests_together_equal_each_alone(machine: Machine) -> None:
    ways: tuple[PastContext, ...] = ("reread", "slide")
    requests = [
        Request(tuple(range(1, 4 + i)), 30, s, logprobs=2, when_full=ways[i % 2], ignore_end_of_text=True)
        for i, s in enumerate(SAMPLINGS * 2)
    ]
    together = generate(make_engine(machine, 4), requests)
    for found in together:
        (alone,) = generate(make_engine(machine, 1), [found.request])
        assert (found.finish_reason, found.error) == ("length", None)
        assert found.tokens == alone.tokens
        assert [each.token for each in found.logprobs] == found.tokens


def test_steps_do_not_wait_for_the_device(machine: Machine) -> None:
    """But for the results of the step before. Copies of lengths by the reference decoder are not counted."""
    if machine.device != "cuda":
        pytest.skip("needs CUDA")
    engine = make_engine(machine, 4)
    logits = torch.randn(4, V, device="cuda")
    requests = [Request((1, 2), 20, sampling, ignore_end_of_text=True) for sampling in SAMPLINGS[:4]]
    generations = [engine.submit(request) for request in requests]
    for _ in range(3):
        engine.step()
    engine.decoder.decode = lambda _tokens, lengths: logits[: len(lengths)]  # type: ignore[method-assign]
    engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [each.error for each in generations] == [None] * 4
