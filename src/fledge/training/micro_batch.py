"""How many sequences are computed at once: as many as memory holds. The global batch stays what it is.

A first guess from the sizes of the model; where it was too bold, half of it, and so on, until it fits.
"""

from collections.abc import Callable

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
    parameters,
)
from fledge.training.objective import LossSum

SHARE = 0.8  # of what is free: other programs breathe, too
LOGITS_SHARE = 0.25  # of all memory: more than this for logits alone is better spent on a larger micro-batch
BUSY_TOKENS = 16_384  # computed at once they keep a GPU busy: more are not worth chunked logits


def estimate(model: ModelConfig, batch: int, machine: Machine, *, chunked: bool, checkpointed: bool = False) -> int:
    """The largest part of a batch that should fit; one sequence, if not even that."""
    number = machine.torch_dtype.itemsize
    room = SHARE * free_memory(machine.device) - TRAINING_BYTES * parameters(model)
    room -= chunk_bytes(model, number) if chunked else 0

    def needed(sequences: int) -> int:
        return activation_bytes(model, sequences, number, chunked=chunked, checkpointed=checkpointed)

    return machine.world.all_reduce_min(max((n for n in divisors(batch) if needed(n) <= room), default=1))


def chunked_loss_pays(model: ModelConfig, sequences: int, machine: Machine, *, compiled: bool) -> bool:
    """Whether logits are made for a chunk of tokens at a time, where `sequences` are computed at once.

    Measured: compiled, and on a GPU, all logits at once are faster, so chunks are for where these do not fit. Eager on
    a CPU the chunked loss is as fast and takes less memory.
    """
    assert model.vocab_size is not None
    if model.vocab_size < LARGE_VOCABULARY:
        return False
    if machine.device == "cpu" and not compiled:
        return True
    needed = logits_bytes(model, sequences * model.context, machine.torch_dtype.itemsize)
    return needed > LOGITS_SHARE * total_memory(machine.device)


class AutoMicroBatch:
    """A global batch → its micro-batches, which become smaller when it is told that they were too large."""

    def __init__(self, loader: Loader, size: int, say: Callable[[str], None]) -> None:
        self.loader, self.size, self.say = loader, size, say

    def __call__(self, number: int) -> list[Batch]:
        return self.loader.micro_batches(number, self.size)

    def shrink(self) -> None:
        smaller = divisors(self.loader.local_batch_size, at_most=self.size // 2)
        if not smaller:
            raise UserError(
                "there is not enough memory for a single sequence",
                "make the model smaller: --model.context, --model.n_embd or --model.n_layer",
            )
        self.say(f"not enough memory for {self.size} sequences at once: {smaller[-1]} from now on, in the same batch")
        self.size = smaller[-1]

    def state_dict(self) -> int:
        """What a checkpoint keeps of it."""
        return self.size

    def load_state_dict(self, size: int | None) -> None:
        """As many as before the run was interrupted: what is free now is not what was free then, and other portions add
        up to other bits. Of another share, on another number of ranks, the bits are others anyway."""
        if size and self.loader.local_batch_size % size == 0:
            self.size = size


class FixedMicroBatch(AutoMicroBatch):
    """As large as somebody asked for; or as fits, where ranks wait for each other and none can begin again."""

    def shrink(self) -> None:
        raise UserError(
            f"there is not enough memory for {self.size} sequences at once",
            "take fewer at once, or let fledge find how many: --train.micro_batch auto",
        )


def probe(fitting: AutoMicroBatch, loss: Callable[[Batch], LossSum], world: World) -> FixedMicroBatch:
    """Tried by each rank on its own, until it fits on all: within a step of many it would be too late."""
    while world.all_reduce_max(_too_large(fitting, loss)):
        fitting.shrink()
    return FixedMicroBatch(fitting.loader, fitting.size, fitting.say)


def _too_large(fitting: AutoMicroBatch, loss: Callable[[Batch], LossSum]) -> bool:
    first = fitting(0)[0]
    try:
        loss(first).total.backward()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return True
    return False
