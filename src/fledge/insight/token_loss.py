"""How surprised a model is by each token of a text."""

import torch
from torch import Tensor

from fledge.losses.logprobs import token_logprobs
from fledge.model.gpt import GPT


@torch.no_grad()
def token_loss(model: GPT, ids: Tensor, *, stream: Tensor | None = None) -> Tensor:
    """ids [T] → the loss of each token after the first, in nats [T - 1]. stream: `whole_stream`, where it is known."""
    if len(ids) < 2:
        return torch.zeros(0)
    ids = ids.to(model.embed.weight.device)[None]
    hidden = model.hidden(ids) if stream is None else model.norm(stream[-1:])
    return -token_logprobs(hidden[:, :-1], model.head, ids[:, 1:])[0].cpu()
