"""The way out: a vector for each place → a score for every token of the vocabulary. [..., C] → [..., V]

Head         weight · x, and a bias where one is wanted
CappedHead   bent so that no score goes beyond ±softcap: small scores stay as they are
"""

from torch import Tensor, nn

from fledge.model.config import ModelConfig


class Head(nn.Linear):
    def __init__(self, config: ModelConfig) -> None:
        assert config.vocab_size is not None
        super().__init__(config.n_embd, config.vocab_size, bias=config.head_bias)


class CappedHead(Head):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.softcap is not None
        self.softcap = config.softcap

    def forward(self, x: Tensor) -> Tensor:
        return self.softcap * (super().forward(x) / self.softcap).tanh()


def make_head(config: ModelConfig) -> Head:
    return Head(config) if config.softcap is None else CappedHead(config)
