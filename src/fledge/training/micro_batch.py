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
    FLOAT32,
    LARGE_VOCABULARY,
    TRAINING_BYTES,
    activation_bytes,
    chunk_bytes,
    logits_bytes,
    non_embedding_parameters,
    parameter_count,
    trained_parameters,
)
from fledge.training.objective import LossSum

FREE_SHARE = 0.8  # of the free memory: other programs need some, too
LOGITS_SHARE = 0.25  # of all memory: more than this is better spent on a larger micro-batch than on logits
GATHERED_BYTES = 8  # per gathered parameter: its weight and its gradient
SATURATING_TOKENS = 16_384  # of a micro-batch that keep a GPU busy: more are not worth chunked logits


def parameter_bytes(model: ModelConfig, shards: int = 1) -> int:
    """Weights, gradients and optimizer state on one device.

    With FSDP (`shards` above 1) each rank has its share of them; in addition the gathered weights and full gradients of
    what it computes: one block, and what is outside the blocks (embedding, head).
    """
    everything = TRAINING_BYTES * (trained := trained_parameters(model)) + FLOAT32 * (parameter_count(model) - trained)
    if shards == 1:
        return everything
    blocks = non_embedding_parameters(model)
    gathered = parameter_count(model) - blocks + -(-blocks // model.n_layer)
    return min(everything, -(-everything // shards) + GATHERED_BYTES * gathered)


def estimate(
    model: ModelConfig, batch: int, machine: Machine, *, chunked: bool, checkpointed: bool = False, shards: int = 1
) -> int:
    """The largest divisor of a batch that should fit in memory; 1 if nothing does. `shards`: FSDP ranks."""
    width = machine.torch_dtype.itemsize
    available = FREE_SHARE * free_memory(machine.device) - parameter_bytes(model, shards)
    available -= chunk_bytes(model, width) if chunked else 0

    def needed(sequences: int) -> int:
        return activation_bytes(model, sequences, width, chunked=chunked, checkpointed=checkpointed)

    return machine.world.all_reduce_min(max((n for n in divisors(batch) if needed(n) <= available), default=1))


def should_chunk_loss(model: ModelConfig, sequences: int, machine: Machine, *, compiled: bool) -> bool:
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


class FixedMicroBatch:
    """Global batch → micro-batches of one size: set by the user, or found by `probe`.

    In a process group no rank can repeat a step alone, so running out of memory is an error.
    """

    def __init__(self, loader: Loader, size: int) -> None:
        self.loader, self.size = loader, size

    def __call__(self, number: int) -> list[Batch]:
        return self.loader.micro_batches(number, self.size)

    def shrink(self) -> None:
        raise UserError(
            f"there is not enough memory for {self.size} sequences at once",
            "use a smaller --train.micro_batch, or let fledge choose it: --train.micro_batch auto",
        )

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use the saved size: another would change the rounding of the sum, and free memory differs from run to run.

        With another number of ranks the bits differ anyway, so a size that does not divide the batch is ignored.
        """
        size = state.get("size")
        if size and self.loader.local_batch_size % size == 0:
            self.size = size


class AutoMicroBatch(FixedMicroBatch):
    """A size that `shrink` makes smaller when memory runs out."""

    def __init__(self, loader: Loader, size: int, report: Callable[[str], None]) -> None:
        super().__init__(loader, size)
        self.report = report

    def shrink(self) -> None:
        smaller = divisors(self.loader.local_batch_size, at_most=self.size // 2)
        if not smaller:
            raise UserError(
                "there is not enough memory for a single sequence",
                "make the model smaller: --model.context, --model.n_embd or --model.n_layer",
            )
        self.report(
            f"not enough memory for {self.size} sequences at once: using {smaller[-1]} from now on;"
            " the global batch is unchanged"
        )
        self.size = smaller[-1]


def probe(auto: AutoMicroBatch, loss: Callable[[Batch], LossSum], world: World) -> FixedMicroBatch:
    """Shrink until a forward and backward pass fits on every rank. A collective."""
    while world.all_reduce_max(_too_large(auto, loss)):
        auto.shrink()
    return FixedMicroBatch(auto.loader, auto.size)


def _too_large(auto: AutoMicroBatch, loss: Callable[[Batch], LossSum]) -> bool:
    try:
        loss(auto(0)[0]).total.backward()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return True
    return False
