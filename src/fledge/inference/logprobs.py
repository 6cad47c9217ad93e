"""Log-probabilities of tokens under the model's own distribution, with the most likely alternatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fledge.inference.request import TokenLogprob


@dataclass(frozen=True)
class Logprobs:
    """Of R tokens, with n alternatives each."""

    tokens: Tensor  # [R]
    chosen: Tensor  # [R]
    top: Tensor  # [R, n], the most likely first
    top_tokens: Tensor  # [R, n]

    @classmethod
    @torch.inference_mode()
    def of(cls, logits: Tensor, tokens: Tensor, alternatives: int, vocab_size: int) -> "Logprobs":
        """logits [R, V] as the model gives them. Alternatives are ids of the tokenizer, below `vocab_size`."""
        logprobs = logits.float().log_softmax(-1)
        chosen = logprobs.gather(-1, tokens.clamp(min=0)[:, None]).squeeze(-1)
        top = logprobs[:, :vocab_size].topk(min(alternatives, vocab_size))
        return cls(tokens, chosen, top.values, top.indices)

    def to_cpu(self) -> "Logprobs":
        """Copies that are complete once the device has come so far."""
        tensors = (self.tokens, self.chosen, self.top, self.top_tokens)
        return Logprobs(*(tensor.to("cpu", non_blocking=True) for tensor in tensors))

    def row(self, row: int, alternatives: int) -> TokenLogprob:
        ids, values = self.top_tokens[row, :alternatives].tolist(), self.top[row, :alternatives].tolist()
        return TokenLogprob(int(self.tokens[row]), float(self.chosen[row]), tuple(zip(ids, values, strict=True)))


def prompt_logprobs(logits: Tensor, following: Sequence[int], alternatives: int, vocab_size: int) -> list[TokenLogprob]:
    """logits [T, V] at the positions before the tokens `following`"""
    found = Logprobs.of(logits, torch.tensor(following, device=logits.device), alternatives, vocab_size)
    found = found.to_cpu()
    if logits.device.type == "cuda":
        torch.cuda.current_stream().synchronize()
    return [found.row(row, alternatives) for row in range(len(following))]
