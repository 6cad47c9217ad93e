"""Verify an export: feed the same tokens to the model and to the written files, and compare the logits."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fledge.checkpoint.state import Tensors, load_weights
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer

PROBE_TOKENS = 1024  # the whole context of most models, so that windows and late positions are tested too
TOLERANCE = 1e-4  # relative to the largest logit: another order of summation differs by less, any mistake by more


@dataclass(frozen=True)
class Parity:
    """The result of a comparison."""

    checked_with: str  # the program that read the files
    difference: float  # the largest, over all logits
    largest: float  # of the logits themselves

    @property
    def summary(self) -> str:
        return (
            f"loaded with {self.checked_with}, the logits differ from the run's by at most {self.difference:.2g}"
            f" (the largest is {self.largest:.3g})"
        )


def probe_tokens(model: GPT) -> Tensor:
    """Random tokens [1, T], the same every time."""
    assert model.config.vocab_size is not None
    length = min(PROBE_TOKENS, model.config.context)
    return torch.randint(model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


def probe_text(ids: Tensor, tokenizer: Tokenizer) -> str:
    """The probe tokens as text; the padded vocabulary of a model may hold ids that are no tokens."""
    return tokenizer.decode(ids[ids < tokenizer.vocab_size].tolist())


def reference_model(model: ModelConfig, weights: Tensors) -> GPT:
    """The model with the reference implementation of attention, which shares no kernel with the exported one."""
    reference = GPT(replace(model, attention="readable")).eval()
    load_weights(reference, weights)
    return reference


@torch.inference_mode()
def compare_logits(model: GPT, ids: Tensor, theirs: Tensor, checked_with: str, tolerance: float = TOLERANCE) -> Parity:
    ours = model.eval()(ids)
    difference, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not difference <= tolerance * max(1.0, largest):
        raise UserError(
            f"nothing was written: the logits of {checked_with} differ from the run's by {difference:.2g}",
            "please report this, with the config.toml of the run",
        )
    return Parity(checked_with, difference, largest)
