"""The process group, and the collectives that training uses: all_reduce, broadcast, all_gather, barrier.

A single process is a `World` of size 1 whose collectives are the identity, so the callers need no special case.
torchrun or Ray starts the processes and sets the environment variables of the rendezvous (RANK, WORLD_SIZE, …).
Tensors on a CPU use gloo, those on a GPU NCCL.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fledge.core.errors import Interrupted, UserError
from fledge.core.signals import default_signals

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

START_TIMEOUT = timedelta(hours=1)  # of a collective: another rank may be saving to a slow disk
FAILURE_TIMEOUT = 1.0  # seconds to learn whether the main process has failed, too
POLL_SECONDS = 0.05
FAILED = "failed"


@dataclass(frozen=True)
class World:
    """Single process: every collective is the identity."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def is_main(self) -> bool:
        """Rank 0: the one that writes files and prints."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        return tensor

    def all_reduce_max(self, number: int) -> int:
        return number

    def all_reduce_min(self, number: int) -> int:
        return -self.all_reduce_max(-number)

    def broadcast_from_main(self, fn: Callable[[], str]) -> str:
        """What `fn` returns on the main process; the others do not call it."""
        return fn()

    def first_message(self, message: str) -> str:
        """The message of the lowest rank whose message is not empty."""
        return message

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Overwrite the tensor with that of rank 0, in place."""
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, which must have the same shape."""
        return [tensor]

    def set_flag(self, name: str) -> None:
        """Set a flag that outlives these processes: torchrun may restart them."""

    def has_flag(self, name: str) -> bool:  # noqa: ARG002
        """Whether any rank has set the flag, before or after a restart."""
        return False

    def main_process_first(self, name: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """The main process runs the block first, then the others do (a barrier). `name` must be unique."""
        return contextlib.nullcontext()


SINGLE_PROCESS = World()


@dataclass(frozen=True)
class ProcessGroup(World):
    """Several processes. All ranks must call the collectives, in the same order."""

    store: Store = field(kw_only=True)
    persistent_store: Store = field(kw_only=True)  # outlives the processes, see `set_flag`

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, number: int) -> int:
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def broadcast_from_main(self, fn: Callable[[], str]) -> str:
        return self._broadcast_text(0, fn() if self.is_main else "")

    def first_message(self, message: str) -> str:
        sender = self.all_reduce_min(self.rank if message else self.size)
        return self._broadcast_text(sender, message) if sender < self.size else ""

    def _broadcast_text(self, rank: int, message: str) -> str:
        encoded = message.encode() if self.rank == rank else b""
        length = torch.tensor(len(encoded))
        dist.broadcast(length, rank)
        sent = torch.tensor(list(encoded.ljust(int(length))), dtype=torch.uint8)
        dist.broadcast(sent, rank)
        return bytes(sent.tolist()).decode()

    def broadcast(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0)
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(gathered, tensor)
        return gathered

    def set_flag(self, name: str) -> None:
        self.persistent_store.set(name, "")

    def has_flag(self, name: str) -> bool:
        return self.persistent_store.check([name])

    @contextlib.contextmanager
    def main_process_first(self, name: str) -> Iterator[None]:
        while not self.is_main and not self.store.check([name]):  # no timeout: preparing a large text may take days
            if self.store.check([FAILED]):
                raise peer_lost()
            time.sleep(POLL_SECONDS)
        yield
        if self.is_main:
            self.store.set(name, "")

    def shutdown(self) -> None:
        """Wait for all ranks first: a launcher ends the others when one process exits early."""
        self.all_reduce_max(0)
        dist.destroy_process_group()

    def main_has_failed(self) -> bool:
        """Called by a rank that fails: has the main process failed as well, and so reports the error?

        The main process waits until the others have asked, as the store may live in it.
        """
        asked = [f"asked/{rank}" for rank in range(1, self.size)]
        with contextlib.suppress(RuntimeError):
            if self.is_main:
                self.store.set(FAILED, "")
                return self._wait_for_keys(asked)
            if self._wait_for_keys([FAILED]):
                self.store.set(asked[self.rank - 1], "")
                return True
        return False

    def _wait_for_keys(self, keys: list[str]) -> bool:
        """Poll for FAILURE_TIMEOUT. The store's own wait logs an error when it times out."""
        end = time.monotonic() + FAILURE_TIMEOUT
        while not (present := self.store.check(keys)) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return present


@contextlib.contextmanager
def init_distributed() -> Iterator[World]:
    """Join the process group for the block; a single process gets `SINGLE_PROCESS`.

    Only the main process prints. If all ranks fail, it reports the error; a rank that fails alone reports its own.
    When one process is lost the others raise `PeerLost`.
    """
    if _is_single_process():
        yield SINGLE_PROCESS
        return
    world = _init_process_group()
    try:
        with contextlib.nullcontext() if world.is_main else _silenced():
            yield world
    except Interrupted as stop:
        world.shutdown()
        if not world.is_main:
            raise SystemExit(stop.code) from None
        raise
    except Exception as error:
        if world.main_has_failed() and not world.is_main:
            raise SystemExit(2) from None
        if _is_connection_error(error):
            raise peer_lost() from error
        raise
    else:
        world.shutdown()


def world_size_of_launcher() -> int:
    """How many processes torchrun has started; 1 without it."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def _is_single_process() -> bool:
    """False under torchrun with restarts: the flags of earlier processes must be readable."""
    return world_size_of_launcher() == 1 and not ("WORLD_SIZE" in os.environ and restart_counts()[1])


def restart_counts() -> tuple[int, int]:
    """How often torchrun has restarted these processes, and how often it may."""
    done, allowed = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(done or 0), int(allowed or 0)


def _init_process_group() -> ProcessGroup:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        with default_signals():
            store, rank, size = next(rendezvous("env://", timeout=START_TIMEOUT))
            start_store = PrefixStore(_start_name(store, size), store)
            group = PrefixStore("group", start_store)
            dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=START_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"the processes did not find each other: {reason}", "start them with torchrun") from error
    local = int(os.environ.get("LOCAL_RANK") or 0)
    return ProcessGroup(
        rank, size, local, store=PrefixStore("world", start_store), persistent_store=PrefixStore("elastic", store)
    )


def _start_name(store: Store, size: int) -> str:
    """A unique prefix for this start: after a restart torchrun's store still holds the keys of the dead processes."""
    start = f"{restart_counts()[0]}/{size}"
    arrived = store.add(f"arrived/{start}", 1)
    return f"{start}/{(arrived - 1) // size}"  # elastic: nodes that join or leave restart all with the same count


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class PeerLost(UserError):
    """Another process of the group has ended, so this one cannot continue."""


def peer_lost() -> PeerLost:
    return PeerLost(
        "another process of this training run has ended, so this one cannot continue",
        "its own output says why; the last checkpoint is intact: continue with fledge resume",
    )


def _is_connection_error(error: Exception) -> bool:
    """Whether a peer closed the connection. gloo has no exception class: its source files appear in the message."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


# With FSDP a tensor is a DTensor, of which each rank holds a shard. Importing torch.distributed.tensor takes half a
# second, so a single process never does.


def is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether FSDP has sharded it."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor on every rank, gathered from its shards."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def to_local(tensor: Tensor) -> Tensor:
    """This rank's shard."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a full tensor, placed as `like` is; unchanged if `like` is not a DTensor."""
    if not is_dtensor(like) or is_dtensor(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
