"""The logit lens: what the model would predict if it stopped after a block.

    lens = logit_lens(model, ids)
    lens.top_ids[layer, position]           # the most likely next tokens after this block
    lens.next_probability[layer]            # of the token that comes next in the text

The final norm and the head are applied to the residual stream after each block; after the last one, that is the model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.core.errors import UserError
from fledge.evaluation.loss import MAX_LOGITS
from fledge.insight.residual_stream import whole_stream
from fledge.model.gpt import GPT


@dataclass(frozen=True)
class LogitLens:
    """Predictions after each block, for the token after each of the T tokens of a text."""

    top_ids: Tensor  # [L, T, top], the most likely first
    top_probabilities: Tensor  # [L, T, top]
    next_probability: Tensor  # [L, T - 1], of the token that follows in the text
    next_rank: Tensor  # [L, T - 1]: 1 where it is the most likely one
    kl: Tensor  # [L, T]: divergence of the model's prediction from this one, in nats; 0 after the last block


@torch.no_grad()
def logit_lens(model: GPT, ids: Tensor, top: int = 5, *, stream: Tensor | None = None) -> LogitLens:
    """ids [T]; stream: `whole_stream`, where it is known.

    A chunk of positions at a time, so that the logits [L, T, V] are never held.
    """
    if top < 1:
        raise UserError(f"top cannot be {top}", "ask for one token at least")
    V, T = model.head.out_features, len(ids)
    ids = ids.to(model.embed.weight.device)
    stream = (whole_stream(model, ids) if stream is None else stream)[1:]  # [L, T, C]
    chunks = []
    for start in range(0, T, size := max(1, MAX_LOGITS // V)):
        stop = min(start + size, T)
        chunks.append(_lens(model, stream[:, start:stop], ids[start + 1 : stop + 1], min(top, V)))
    return LogitLens(*(torch.cat(parts, 1) for parts in zip(*chunks, strict=True)))


def _lens(model: GPT, stream: Tensor, following: Tensor, top: int) -> tuple[Tensor, ...]:
    """stream [L, T, C], and the token after each position; after the last one there may be none."""
    final = _logits(model, stream[-1]).softmax(-1)  # [T, V]
    information = -torch.special.entr(final).sum(1)  # its negative entropy [T]
    layers, n = [], len(following)
    for x in stream:
        logits = _logits(model, x)  # log-probabilities, but for one constant a row: a pass over all of them is saved
        total = logits.logsumexp(1)
        best = logits.topk(top)
        scores = logits[:n].gather(1, following[:, None])  # [n, 1]
        rank = 1 + (logits[:n] > scores).sum(1)
        kl = (information - torch.linalg.vecdot(final, logits) + total).clamp(min=0)
        probabilities = (best.values - total[:, None]).exp()
        layers.append((best.indices, probabilities, (scores[:, 0] - total[:n]).exp(), rank, kl))
    return tuple(torch.stack(each).cpu() for each in zip(*layers, strict=True))


def _logits(model: GPT, x: Tensor) -> Tensor:
    logits: Tensor = model.head(model.norm(x))
    return logits.float()
