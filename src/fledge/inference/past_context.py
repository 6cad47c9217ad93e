"""Past the end of the context: what the model reads of a text that is longer than its context.

reread   The newer half of the context is read again into an empty cache, and the text goes on from there: one long step
         in every context/2 tokens. In between, a token costs one token. The engine does it as it reads a prompt.
slide    The model reads the last `context` tokens before each new one, as in nanoGPT: the window slides by one token.
         Every token has another position than before, so nothing in the cache can be used, and a new token costs a
         whole context.

Up to the end of the context both give the same text; from there on they differ.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fledge.inference.decoder import Decoder
from fledge.inference.slots import Running

MAX_TOKENS = 8192  # computed at once, so that memory does not grow with the number of texts


def slide(decoder: Decoder, full: Sequence[Running], newest: Tensor, logits: Tensor) -> Tensor:
    """Compute the next token's logits of the requests whose context is full.

    newest [slots]: the newest token of each slot. logits [R, V]: of slots 0 … R-1, where others are decoding.
    → logits of all slots up to the highest in use
    """
    rows = max(1, MAX_TOKENS // decoder.config.context)
    for running in full:
        index = running.slot.index
        running.window = torch.cat((_before(running, decoder), newest[index : index + 1]))
    windows = torch.stack([running.window for running in full if running.window is not None])
    slid = torch.cat([decoder.recompute(part).float() for part in windows.split(rows)])
    found = torch.zeros(max(len(logits), full[-1].slot.index + 1), slid.shape[1], device=slid.device)
    if len(logits):
        found[: len(logits)] = logits
    slots = torch.tensor([running.slot.index for running in full]).to(slid.device, non_blocking=True)
    return found.index_copy_(0, slots, slid)


def _before(running: Running, decoder: Decoder) -> Tensor:
    """The context - 1 tokens before the newest. That one may still be on its way from the device."""
    if running.window is not None:
        return running.window[1:]
    generation, size = running.generation, decoder.config.context - 1
    end = len(generation.request.prompt) + running.drawn - 1
    text = (*generation.request.prompt, *generation.tokens)[end - size : end]
    return torch.tensor(text, dtype=torch.long).to(decoder.device)
