"""The micro-batch: how many sequences are computed at once. The global batch does not depend on it.

`estimate` computes the size from the model and the free memory; when memory runs out it is halved.
"""

from collections.abc import Callable
from typing import Any

from fledge.batches.loader import Batch, Loader
from fledge.core.config import divisors
from fledge.core.device import Machine, free_memory, total_memory
from fledge.core.distributed import World
from fledge.core.errors import UserError, out_of_memory
from fledge.model.config import ModelConfig
from fledge.model.flops import (
    LARGE_VOCABULARY,
    TRAINING_BYTES,
    activation_bytes,
    chunk_bytes,
    logits_bytes,
    parameter_count,
)
from fledge.training.objective import LossSum

FREE_SHARE = 0.8  # of the free memory: other programs need some, too
LOGITS_SHARE = 0.25  # of all memory: more than this is better spent on a larger micro-batch than on logits
BUSY_TOKENS = 16_384  # of a micro-batch keep a GPU busy: more are not worth chunked logits


def estimate(model: ModelConfig, batch: int, machine: Machine, *, chunked: bool, checkpointed: bool = False) -> int:
    """The largest divisor of a batch that should fit in memory; 1 if nothing does."""
    width = machine.torch_dtype.itemsize
    room = FREE_SHARE * free_memory(machine.device) - TRAINING_BYTES * parameter_count(model)
    room -= chunk_bytes(model, width) if chunked else 0

    def needed(sequences: int) -> int:
        return activation_bytes(model, sequences, width, chunked=chunked, checkpointed=checkpointed)

    return machine.world.all_reduce_min(max((n for n in divisors(batch) if needed(n) <= room), default=1))


def chunked_loss_pays(model: ModelConfig, sequences: int, machine: Machine, *, compiled: bool) -> bool:
    """Whether to compute logits for a chunk of tokens at a time, with `sequences` in a micro-batch.

    Measured: compiled, and on a GPU, all logits at once are faster, so chunks are used only where they do not fit.
    Eager on a CPU the chunked loss is as fast and takes less memory.
    """
    assert model.vocab_size is not None
    if model.vocab_size < LARGE_VOCABULARY:
        return False
    if machine.device == "cpu" and not compiled:
        return True
    needed = logits_bytes(model, sequences * model.context, machine.torch_dtype.itemsize)
    return needed > LOGITS_SHARE * total_memory(machine.device)


class AutoMicroBatch:
    """Global batch → micro-batches, which `shrink` makes smaller when memory runs out."""

    def __init__(self, loader: Loader, size: int, report: Callable[[str], None]) -> None:
        self.loader, self.size, self.report = loader, size, report

    def __call__(self, number: int) -> list[Batch]:
        return self.loader.micro_batches(number, self.size)

    def shrink(self) -> None:
        smaller = divisors(self.loader.local_batch_size, at_most=self.size // 2)
        if not smaller:
            raise UserError(
                "there is not enough memory for a single sequence",
                "make the model smaller: --model.context, --model.n_embd or --model.n_layer",
            )
        self.report(
            f"not enough memory for {self.size} sequences at once: {smaller[-1]} from now on, in the same batch"
        )
        self.size = smaller[-1]

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use the saved size: another one would sum to other bits, and free memory differs from run to run.

        With another number of ranks the bits differ anyway, so a size that does not divide the batch is ignored.
        """
        size = state.get("size")
        if size and self.loader.local_batch_size % size == 0:
            self.size = size


class FixedMicroBatch(AutoMicroBatch):
    """A size that was set by the user, or found by `probe`: in a process group no rank can repeat a step alone."""

    def shrink(self) -> None:
        raise UserError(
            f"there is not enough memory for {self.size} sequences at once",
            "use a smaller --train.micro_batch, or let fledge choose it: --train.micro_batch auto",
        )


def probe(auto: AutoMicroBatch, loss: Callable[[Batch], LossSum], world: World) -> FixedMicroBatch:
    """Shrink until a forward and backward pass fits on every rank. A collective."""
    while world.all_reduce_max(_too_large(auto, loss)):
        auto.shrink()
    return FixedMicroBatch(auto.loader, auto.size, auto.report)


def _too_large(auto: AutoMicroBatch, loss: Callable[[Batch], LossSum]) -> bool:
    try:
        loss(auto(0)[0]).total.backward()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return True
    return False
