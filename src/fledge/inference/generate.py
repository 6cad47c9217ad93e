"""A prompt and a model → tokens, one after another, each at the price of one token.

Keys and values of the past are kept (model/kv_cache.py). When the context is full, the newer half of it is read
again and the older half forgotten: one long step in every context/2, and text can go on without end.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fledge.core.device import Machine
from fledge.inference.sampler import Strategy, TopN, sample
from fledge.model.gpt import GPT
from fledge.model.kv_cache import new_cache
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.streaming import TextStreamer


@torch.no_grad()  # not inference_mode: weights that ranks have borrowed in it could never be learned from
def generate(
    model: GPT, prompt: Tensor, row: tuple[Strategy, ...], machine: Machine, count: int, seed: int
) -> Iterator[Tensor]:
    """prompt [B, T] → `count` times the next tokens [B], drawn with a generator of its own."""
    was_training = model.training
    model.eval()
    try:
        generator = torch.Generator().manual_seed(seed)
        context = model.config.context
        seen = prompt[:, -context:].to(machine.device)
        cache, new = new_cache(model.config), seen
        for _ in range(count):
            if cache.length + new.shape[1] > context:
                cache, new = new_cache(model.config), seen[:, -(context // 2 or 1) :]
            with machine.autocast():
                logits = model.next_token_logits(new, cache)
            chosen = machine.world.broadcast(sample(logits, row, generator))  # or ranks might end at other places
            new = chosen.to(machine.device).unsqueeze(1)
            seen = torch.cat((seen[:, -context:], new), dim=1)
            yield chosen
    finally:
        model.train(was_training)


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    row: tuple[Strategy, ...],
    machine: Machine,
    count: int,
    seed: int,
) -> Iterator[str]:
    """The text that follows `prompt`, piece by piece, until `count` tokens or the end of the text."""
    ids = tokenizer.encode(prompt).tolist()
    if not ids:  # nothing to go on from: begin as a document begins
        ids = [tokenizer.end_of_text if tokenizer.end_of_text is not None else 0]
    stream = TextStreamer(tokenizer)
    row = (TopN(tokenizer.vocab_size), *row)
    for (token,) in generate(model, torch.tensor([ids]), row, machine, count, seed):
        if int(token) == tokenizer.end_of_text:
            break
        if piece := stream.add(int(token)):
            yield piece
    if rest := stream.end():
        yield rest
