"""A prompt and a model → tokens, one after another, each at the cost of one token.

Keys and values of earlier tokens are in a cache (model/kv_cache.py). When the context is full, its newer half is read
again into an empty cache, as by "reread" in past_context.py: one long step in every context/2, and text can go on
without end.

`stream_text` stops at the end-of-text token; a stop string would be checked there, too. Speculative decoding would
verify several draft tokens with one call of the model in `generate`, and drop rejected ones with `KVCache.truncate`.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from fledge.core.device import Machine
from fledge.inference.sampler import KnownTokens, Strategy, sample
from fledge.model.gpt import GPT
from fledge.model.kv_cache import KVCache
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.streaming import TextStreamer


@torch.no_grad()  # inference_mode would mark FSDP's gathered parameters as inference tensors
def generate(
    model: GPT, prompt: Tensor, strategies: tuple[Strategy, ...], machine: Machine, count: int, seed: int
) -> Iterator[Tensor]:
    """prompt [B, T]; yields the next tokens [B], `count` times, drawn with a generator of its own."""
    was_training = model.training
    model.eval()
    try:
        generator = torch.Generator().manual_seed(seed)
        context, rows = model.config.context, len(prompt)
        new = text = prompt[:, -context:].to(machine.device)
        cache = KVCache.allocate(model.config, rows, machine.torch_dtype, machine.device)
        for _ in range(count):
            if int(cache.lengths[0]) + new.shape[1] > context:
                for row in range(rows):
                    cache.free(row)
                new = text[:, -(context // 2 or 1) :]
            with machine.autocast():
                logits = model.next_token_logits(new, cache)
            drawn = sample(logits, strategies, generator)
            drawn = machine.world.broadcast(drawn)  # rounding may differ between ranks, and all must draw the same
            new = drawn.to(machine.device).unsqueeze(1)
            text = torch.cat((text[:, -context:], new), dim=1)
            yield drawn
    finally:
        model.train(was_training)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> tuple[int, ...]:
    """An empty prompt becomes one token, which starts a text as a document starts."""
    start = tokenizer.end_of_text if tokenizer.end_of_text is not None else 0
    return tuple(int(i) for i in tokenizer.encode(prompt)) or (start,)


def stream_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    strategies: tuple[Strategy, ...],
    machine: Machine,
    count: int,
    seed: int,
) -> Iterator[str]:
    """The text that follows `prompt`, piece by piece, until `count` tokens or an end-of-text token."""
    ids = prompt_ids(tokenizer, prompt)
    stream = TextStreamer(tokenizer)
    strategies = (KnownTokens(tokenizer.vocab_size), *strategies)
    for (token,) in generate(model, torch.tensor([ids]), strategies, machine, count, seed):
        if int(token) == tokenizer.end_of_text:
            break
        if piece := stream.add(int(token)):
            yield piece
    if rest := stream.end():
        yield rest
