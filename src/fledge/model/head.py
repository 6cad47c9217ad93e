"""The heads: hidden vectors → logits of every token of the vocabulary. [..., C] → [..., V]

Head            weight · x, plus a bias where one is wanted
SoftcapHead     the same, squeezed smoothly between -softcap and softcap
ValueHead       a number for each token, [..., C] → [...]: the reward of a text up to there, or what is expected to come

Matrix products are slow where V is no multiple of 64: GPT-2's 50,257 takes a third longer than 50,304 on a GPU, and a
tenth on a CPU. `padded` computes with a padded vocabulary and returns the same logits; the weights that are trained,
saved and counted always have the exact size.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from fledge.model.config import ModelConfig

TILE = 64


def padding(vocab_size: int) -> int:
    """How many rows are missing to the next multiple of TILE."""
    return -vocab_size % TILE


def zero_padded(x: Tensor, count: int, dim: int = 0) -> Tensor:
    """`count` more zeros along a dimension. F.pad copies even where there are none to add."""
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, count)) if count else x


class Head(nn.Linear):
    def __init__(self, config: ModelConfig) -> None:
        assert config.vocab_size is not None
        super().__init__(config.n_embd, config.vocab_size, bias=config.head_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.cap(F.linear(x, self.weight, self.bias))

    def padded(self, x: Tensor) -> Tensor:
        """The same as forward, faster for many tokens: for a single one, copying the weights would cost more."""
        V = self.out_features
        weight = zero_padded(self.weight, padding(V))
        bias = None if self.bias is None else zero_padded(self.bias, padding(V))
        return self.cap(F.linear(x, weight, bias)[..., :V])

    def cap(self, logits: Tensor) -> Tensor:
        return logits

    def cap_gradient(self, gradient: Tensor, _capped: Tensor) -> Tensor:
        """The gradient of the capped logits → that of the logits before, for code that computes gradients by itself."""
        return gradient


class SoftcapHead(Head):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.softcap is not None
        self.softcap = config.softcap

    def cap(self, logits: Tensor) -> Tensor:
        return self.softcap * (logits / self.softcap).tanh()

    def cap_gradient(self, gradient: Tensor, capped: Tensor) -> Tensor:
        return gradient * (1 - (capped / self.softcap).square())  # tanh' = 1 - tanh²


class ValueHead(nn.Linear):
    """Without a bias, as in transformers' classes for sequence classification. In float32 under autocast, too: a reward
    of 3 in bfloat16 would be exact to 0.01 only."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.n_embd, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * self.weight[0]).sum(-1)


def make_head(config: ModelConfig) -> Head:
    return Head(config) if config.softcap is None else SoftcapHead(config)
