"""The rows of the KV cache: which tokens each holds, and which request works in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fledge.inference.decoder import Decoder
from fledge.inference.request import Generation
from fledge.inference.stop import TextStream


@dataclass(eq=False)
class Running:
    """A request that has a slot."""

    generation: Generation
    slot: "Slot"
    text: TextStream
    limit: int  # tokens at most: max_tokens, or until the context is full
    prompt: list[int]  # tokens to be in the cache before the next one is drawn
    length: int = 0  # tokens in the cache, also those whose result was not fetched yet
    drawn: int = 0  # tokens drawn, also those not fetched yet
    started: bool = False  # the sampler knows it
    decoding: bool = False  # the prompt is in the cache
    window: Tensor | None = None  # [context]: its newest tokens, where the context is full and slides


@dataclass(eq=False)
class Slot:
    index: int
    cached: list[int] = field(default_factory=list)  # tokens whose keys and values are in the cache, also after the end
    running: Running | None = None
    last_used: int = 0  # larger: later

    @property
    def length(self) -> int:
        """Tokens in the cache, also those whose result was not fetched yet."""
        return len(self.cached) if self.running is None else self.running.length

    def shared_with(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prompt need not be computed; the last one always is, as its logits are needed."""
        return common_prefix(self.cached, prompt[:-1])


class SlotTable:
    """All slots. On a CPU a step computes slots 0 … R-1, so requests use the lowest ones."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._slots = [Slot(index) for index in range(decoder.slots)]
        self._starts = 0  # requests that were placed so far

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    def running(self) -> list[Running]:
        return [slot.running for slot in self._slots if slot.running is not None]

    def place(self, prompt: Sequence[int], *, reuse: bool) -> Slot | None:
        """The lowest free slot, with the longest start of the prompt that any slot has in `cached`; None: all are busy.

        What the slot held before moves to the free slot that was not used for the longest time.
        """
        free = [slot for slot in self._slots if slot.running is None]
        if not free:
            return None
        target = free[0]
        shared = [slot.shared_with(prompt) if reuse else 0 for slot in self._slots]
        source = max(self._slots, key=lambda slot: (shared[slot.index], slot is target, -slot.index))
        length = shared[source.index]
        others = [slot for slot in free if slot is not target and slot is not source]
        if others and len(target.cached) > (length if source is target else 0):
            self._copy(target, min(others, key=lambda slot: slot.last_used), len(target.cached))
        self._copy(source, target, length)
        self._starts += 1
        target.last_used = self._starts
        return target

    def _copy(self, source: Slot, target: Slot, length: int) -> None:
        if source is not target and length > 0:
            target.cached = []  # also where copying fails
            self._decoder.copy_prefix(source.index, target.index, length)
        target.cached, target.last_used = source.cached[:length], source.last_used

    def move_down(self) -> tuple[int, int] | None:
        """Move the highest request to the lowest free slot, where at least half of the rows would compute nothing.

        → the indices of both
        """
        used = [slot.index for slot in self._slots if slot.running is not None]
        if not used or used[-1] + 1 < 2 * len(used) or used[-1] + 1 == len(used):
            return None
        source = self._slots[used[-1]]
        target = next(slot for slot in self._slots if slot.running is None)
        assert source.running is not None
        target.cached = []  # also where copying fails
        self._decoder.copy_prefix(source.index, target.index, source.running.length)
        target.cached, target.last_used = list(source.cached), source.last_used
        target.running, source.running = source.running, None
        target.running.slot = target
        return source.index, target.index


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of equal elements at the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
