"""Is what was written what was meant? The same tokens into both models, and the largest difference of their scores."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fledge.checkpoint.state import Tensors, load_weights
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer

TOKENS = 1024  # a whole context of most models: windows and late places are judged too
ALLOWED = 1e-4  # of the largest score: sums in another order differ by less, anything else by more


@dataclass(frozen=True)
class Parity:
    """What a second reader of the files found."""

    checked_with: str
    difference: float  # the largest, over all scores
    largest: float  # of the scores themselves

    @property
    def summary(self) -> str:
        return (
            f"read back by {self.checked_with}, its scores differ from the run's by {self.difference:.2g} at most"
            f" (they reach {self.largest:.3g})"
        )


def probe_tokens(model: GPT) -> Tensor:
    """Tokens to ask about: any do, the same every time. [1, T]"""
    assert model.config.vocab_size is not None
    length = min(TOKENS, model.config.context)
    return torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


def probe_text(ids: Tensor, tokenizer: Tokenizer) -> str:
    """The same as text, for the second reader's tokenizer; a model may have more places than there are tokens."""
    return tokenizer.decode(ids[ids < tokenizer.vocab_size].tolist())


def reference_model(model: ModelConfig, weights: Tensors) -> GPT:
    """A model with every step of its attention in the open, so that it shares no kernel with the one it judges."""
    made = GPT(replace(model, attention="readable")).eval()
    load_weights(made, weights)
    return made


@torch.inference_mode()
def compare_logits(model: GPT, ids: Tensor, theirs: Tensor, checked_with: str, allowed: float = ALLOWED) -> Parity:
    ours = model.eval()(ids)
    difference, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not difference <= allowed * max(1.0, largest):
        raise UserError(
            f"{checked_with} computes scores that differ by {difference:.2g} from ours, and nothing was written",
            "please report this, with the config.toml of the run",
        )
    return Parity(checked_with, difference, largest)
