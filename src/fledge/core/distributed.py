"""The processes that train together, and what they do together: add up, agree, listen, wait.

A process that is alone is a world of one, and the same words are said to it, so nobody else asks how many there are.
torchrun, or Ray, starts the others and sets what they find each other by. Only tensors and words travel.
Numbers on a CPU go through gloo, those on a GPU through NCCL.
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

START_TIMEOUT = timedelta(hours=1)  # a saved checkpoint, or a slow disk
FAILURE_TIMEOUT = 1.0  # seconds
POLL_SECONDS = 0.05  # seconds between looks
FAILED = "failed"


@dataclass(frozen=True)
class World:
    """Of one. What ranks tell each other is what this one says."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on the same machine

    @property
    def is_main(self) -> bool:
        """The one that writes and speaks for all."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Of all ranks', in place."""
        return tensor

    def all_reduce_max(self, number: int) -> int:
        return number

    def all_reduce_min(self, number: int) -> int:
        return -self.all_reduce_max(-number)

    def broadcast_from_main(self, find: Callable[[], str]) -> str:
        """What the first finds; the others do not look."""
        return find()

    def first_message(self, own: str) -> str:
        """Those of the lowest rank that has any."""
        return own

    def broadcast(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape on every rank becomes the first's, in place."""
        return tensor

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of the same shape."""
        return [tensor]

    def set_flag(self, word: str) -> None:
        """For those who are started again in the place of these."""

    def has_flag(self, word: str) -> bool:  # noqa: ARG002
        """Whether any of these noted it, or of those in whose place they were started."""
        return False

    def main_process_first(self, name: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """The first goes through the block alone, and then the others do. Each such block has a name."""
        return contextlib.nullcontext()


SINGLE_PROCESS = World()


@dataclass(frozen=True)
class ProcessGroup(World):
    """Of many. Each of these must be called by all ranks, in the same order."""

    store: Store = field(kw_only=True)
    lasting: Store = field(kw_only=True)  # outlives these processes

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def all_reduce_max(self, number: int) -> int:
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def broadcast_from_main(self, find: Callable[[], str]) -> str:
        return self._broadcast_text(0, find() if self.is_main else "")

    def first_message(self, own: str) -> str:
        sender = self.all_reduce_min(self.rank if own else self.size)
        return self._broadcast_text(sender, own) if sender < self.size else ""

    def _broadcast_text(self, rank: int, own: str) -> str:
        encoded = own.encode() if self.rank == rank else b""
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

    def set_flag(self, word: str) -> None:
        self.lasting.set(word, "")

    def has_flag(self, word: str) -> bool:
        return self.lasting.check([word])

    @contextlib.contextmanager
    def main_process_first(self, name: str) -> Iterator[None]:
        while not self.is_main and not self.store.check([name]):  # for days, where the text is large
            if self.store.check([FAILED]):
                raise peer_lost()
            time.sleep(POLL_SECONDS)
        yield
        if self.is_main:
            self.store.set(name, "")

    def shutdown(self) -> None:
        """Together: whoever starts processes takes one that leaves early for a reason to end the others."""
        self.all_reduce_max(0)
        dist.destroy_process_group()

    def main_has_failed(self) -> bool:
        """Asked by a rank that fails. The first waits for those who ask, as it may hold what they look at."""
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
        """Within a moment. Looked for again and again, as the store's own waiting is loud when it is in vain."""
        end = time.monotonic() + FAILURE_TIMEOUT
        while not (there := self.store.check(keys)) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return there


@contextlib.contextmanager
def init_distributed() -> Iterator[World]:
    """For the time of the block this process is one of those that were started together.

    Only the first is heard: what the others say goes nowhere, and where all fail, it says why. A process that fails
    alone does speak. When one is gone, the others cannot go on, and end.
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
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def _is_single_process() -> bool:
    """One that may be started again is not: it hears of those before it."""
    return world_size_of_launcher() == 1 and not ("WORLD_SIZE" in os.environ and restart_counts()[1])


def restart_counts() -> tuple[int, int]:
    """How often these processes have been started again, and how often they may be, in torchrun's words."""
    done, most = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(done or 0), int(most or 0)


def _init_process_group() -> ProcessGroup:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        with default_signals():
            store, rank, size = next(rendezvous("env://", timeout=START_TIMEOUT))
            own = PrefixStore(_start_name(store, size), store)
            group = PrefixStore("group", own)
            dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=START_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"the processes did not find each other: {reason}", "start them with torchrun") from error
    local = int(os.environ.get("LOCAL_RANK") or 0)
    return ProcessGroup(rank, size, local, store=PrefixStore("world", own), lasting=PrefixStore("lasting", store))


def _start_name(store: Store, size: int) -> str:
    """A name of this start. torchrun keeps its store when it starts processes again, with all that dead ones wrote."""
    start = f"{restart_counts()[0]}/{size}"
    arrived = store.add(f"arrived/{start}", 1)
    return f"{start}/{(arrived - 1) // size}"  # machines that come or go make another start of the same count


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class PeerLost(UserError):
    """Another process of this world has ended: this one cannot go on, and is not to blame."""


def peer_lost() -> PeerLost:
    return PeerLost(
        "another process of this training has ended, and the work of all is in pieces",
        "its own words say why; what was saved is whole: go on with fledge resume",
    )


def _is_connection_error(error: Exception) -> bool:
    """Whether the other end of a wire is gone. gloo has no exception of its own: its files stand in the words."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


# With FSDP a tensor is a DTensor: each rank holds a part of it. Importing torch.distributed.tensor takes half a second,
# which a single process need not wait for.


def is_dtensor(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """Gathered from all ranks, on every rank."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def to_local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_dtensor(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, which every rank has, this rank's part."""
    if not is_dtensor(like) or is_dtensor(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
