"""The processes that train together, and what they do together: add up, agree, listen, wait.

A process that is alone is a company of one, and the same words are said to it, so nobody else asks how many there are.
torchrun, or Ray, starts the others and sets what they find each other by. Only tensors and words travel.
Numbers on a CPU go through gloo, those on a GPU through NCCL.
"""

import contextlib
import os
import signal
import threading
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

from fledge.base.errors import Interrupted, UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

PATIENCE = timedelta(hours=1)  # a saved checkpoint, or a slow disk
A_MOMENT = 1.0  # seconds
GLANCE = 0.05  # seconds between looks
FAILED = "failed"


@dataclass(frozen=True)
class Company:
    """Of one. What ranks tell each other is what this one says."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on the same machine

    @property
    def first(self) -> bool:
        """The one that writes and speaks for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Of all ranks', in place."""
        return tensor

    def most(self, number: int) -> int:
        return number

    def least(self, number: int) -> int:
        return -self.most(-number)

    def tell(self, find: Callable[[], str]) -> str:
        """What the first finds; the others do not look."""
        return find()

    def any_words(self, own: str) -> str:
        """Those of the lowest rank that has any."""
        return own

    def as_first(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape on every rank becomes the first's, in place."""
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, all of the same shape."""
        return [tensor]

    def note(self, word: str) -> None:
        """For those who are started again in the place of these."""

    def noted(self, word: str) -> bool:  # noqa: ARG002
        """Whether any of these noted it, or of those in whose place they were started."""
        return False

    def in_turn(self, what: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        """The first goes through the block alone, and then the others do. Each such block has a name."""
        return contextlib.nullcontext()


ALONE = Company()


@dataclass(frozen=True)
class Connected(Company):
    """Of many. Each of these must be called by all ranks, in the same order."""

    store: Store = field(kw_only=True)
    lasting: Store = field(kw_only=True)  # outlives these processes

    def sum(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def most(self, number: int) -> int:
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def tell(self, find: Callable[[], str]) -> str:
        return self._words_of(0, find() if self.first else "")

    def any_words(self, own: str) -> str:
        speaker = self.least(self.rank if own else self.size)
        return self._words_of(speaker, own) if speaker < self.size else ""

    def _words_of(self, rank: int, own: str) -> str:
        letters = own.encode() if self.rank == rank else b""
        length = torch.tensor(len(letters))
        dist.broadcast(length, rank)
        sent = torch.tensor(list(letters.ljust(int(length))), dtype=torch.uint8)
        dist.broadcast(sent, rank)
        return bytes(sent.tolist()).decode()

    def as_first(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, 0)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        everyones = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(everyones, tensor)
        return everyones

    def note(self, word: str) -> None:
        self.lasting.set(word, "")

    def noted(self, word: str) -> bool:
        return self.lasting.check([word])

    @contextlib.contextmanager
    def in_turn(self, what: str) -> Iterator[None]:
        while not self.first and not self.store.check([what]):  # for days, where the text is large
            if self.store.check([FAILED]):
                raise gone()
            time.sleep(GLANCE)
        yield
        if self.first:
            self.store.set(what, "")

    def leave(self) -> None:
        """Together: whoever starts processes takes one that leaves early for a reason to end the others."""
        self.most(0)
        dist.destroy_process_group()

    def first_has_failed(self) -> bool:
        """Asked by a rank that fails. The first waits for those who ask, as it may hold what they look at."""
        asked = [f"asked/{rank}" for rank in range(1, self.size)]
        with contextlib.suppress(RuntimeError):
            if self.first:
                self.store.set(FAILED, "")
                return self._appear(asked)
            if self._appear([FAILED]):
                self.store.set(asked[self.rank - 1], "")
                return True
        return False

    def _appear(self, words: list[str]) -> bool:
        """Within a moment. Looked for again and again, as the store's own waiting is loud when it is in vain."""
        end = time.monotonic() + A_MOMENT
        while not (there := self.store.check(words)) and time.monotonic() < end:
            time.sleep(GLANCE)
        return there


@contextlib.contextmanager
def joined() -> Iterator[Company]:
    """For the time of the block this process is one of those that were started together.

    Only the first is heard: what the others say goes nowhere, and where all fail, it says why. A process that fails
    alone does speak. When one is gone, the others cannot go on, and end.
    """
    if _alone():
        yield ALONE
        return
    company = _join()
    try:
        with contextlib.nullcontext() if company.first else _hushed():
            yield company
    except Interrupted as stop:
        company.leave()
        if not company.first:
            raise SystemExit(stop.code) from None
        raise
    except Exception as error:
        if company.first_has_failed() and not company.first:
            raise SystemExit(2) from None
        if _lost(error):
            raise gone() from error
        raise
    else:
        company.leave()


def started_together() -> int:
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def _alone() -> bool:
    """One that may be started again is not: it hears of those before it."""
    return started_together() == 1 and not ("WORLD_SIZE" in os.environ and restarts()[1])


def restarts() -> tuple[int, int]:
    """How often these processes have been started again, and how often they may be, in torchrun's words."""
    done, most = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(done or 0), int(most or 0)


def _join() -> Connected:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        with _mortal():
            store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
            own = PrefixStore(_round(store, size), store)
            group = PrefixStore("group", own)
            dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(f"the processes did not find each other: {reason}", "start them with torchrun") from error
    local = int(os.environ.get("LOCAL_RANK") or 0)
    return Connected(rank, size, local, store=PrefixStore("company", own), lasting=PrefixStore("lasting", store))


@contextlib.contextmanager
def _mortal() -> Iterator[None]:
    """Who waits in torch's hands for others, maybe for an hour, comes to no handler: a signal is the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _round(store: Store, size: int) -> str:
    """A name of this start. torchrun keeps its store when it starts processes again, with all that dead ones wrote."""
    start = f"{restarts()[0]}/{size}"
    arrived = store.add(f"arrived/{start}", 1)
    return f"{start}/{(arrived - 1) // size}"  # machines that come or go make another start of the same count


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


class Gone(UserError):
    """Another process of this company has ended: this one cannot go on, and is not to blame."""


def gone() -> Gone:
    return Gone(
        "another process of this training has ended, and the work of all is in pieces",
        "its own words say why; what was saved is whole: go on with fledge resume",
    )


def _lost(error: Exception) -> bool:
    """Whether the other end of a wire is gone. gloo has no exception of its own: its files stand in the words."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


# A tensor may be spread over the ranks, each holding a part (train/parallel.py, fsdp). Whoever is alone meets none, and
# need not wait half a second for the module that knows them.


def is_spread(tensor: Tensor) -> "TypeGuard[DTensor]":
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Gathered from all ranks, on every rank."""
    return tensor.full_tensor() if is_spread(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_spread(tensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor, which every rank has, this rank's part."""
    if not is_spread(like) or is_spread(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
