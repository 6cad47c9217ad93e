"""Log-probabilities of answers: of the policy, with a gradient, and of the frozen reference, once before training."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fledge.alignment.preferences import Pair, pair_batch
from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.core.progress import notice, progress
from fledge.losses.logprobs import token_logprobs
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT

ROWS = 8  # pairs in a batch where nothing is learned; fixed, so that the bits do not depend on the free memory


def pair_logprobs(model: GPT, batch: Batch) -> Tensor:
    """log π of the chosen and the rejected answer, in nats [B, 2]"""
    inputs, targets = batch.inputs.flatten(0, 1), batch.targets.flatten(0, 1)
    return model.forward_loss(inputs, targets, token_logprobs).sum(-1).unflatten(0, (-1, 2))


@torch.no_grad()
def reference_logprobs(reference: GPT, pairs: Sequence[Pair], machine: Machine) -> Tensor:
    """log π_ref of the answers of each pair, by the function and in the precision of the update [N, 2]

    Pairs of similar length are computed together. Each rank computes a share.
    """
    notice(f"the reference model scores {counted(len(pairs), 'pair')} …")
    found = torch.zeros(len(pairs), 2)
    order = torch.tensor([pair.length for pair in pairs]).argsort(stable=True)
    batches = order.split(ROWS)[machine.world.rank :: machine.world.size]
    for rows in progress(batches, "log-probabilities of the reference"):
        batch = pair_batch([pairs[row] for row in rows.tolist()], reference.config.context).to(machine.device)
        with machine.autocast():
            found[rows] = pair_logprobs(reference, batch).cpu()
    return machine.world.all_reduce_sum(found)


def check_reference(reference: ModelConfig, model: ModelConfig) -> None:
    for name in ("vocab_size", "context"):
        theirs, ours = getattr(reference, name), getattr(model, name)
        if theirs != ours:
            raise UserError(
                f"the reference does not match the model: its {name} is {theirs}, and that of the model is {ours}",
                "the reference is the run that training starts from: do not change [model] or the tokenizer",
            )
