"""The rows of the KV cache: which tokens each holds, and which request works in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    decoding: bool = False  # the prompt is in the cache


@dataclass(eq=False)
class Slot:
    index: int
    cached: list[int] = field(default_factory=list)  # tokens whose keys and values are in the cache, also after the end
    running: Running | None = None

    def shared_with(self, prompt: Sequence[int]) -> int:
        """How many tokens of the prompt need not be computed; the last one always is, as its logits are needed."""
        return common_prefix(self.cached, prompt[:-1])


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of equal elements at the start."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def choose_slots(slots: Sequence[Slot], prompt: Sequence[int], reuse: bool) -> tuple[Slot, Slot, int]:
    """A free slot for the prompt, the slot that has its longest prefix (perhaps the same), and that length.

    Among equals the lowest index: on a CPU a step computes all slots up to the highest that is in use.
    """
    free = [slot for slot in slots if slot.running is None]
    if not reuse:
        return free[0], free[0], 0
    shared = [slot.shared_with(prompt) for slot in slots]
    source = max(slots, key=lambda slot: (shared[slot.index], slot.running is None, -slot.index))
    target = max(free, key=lambda slot: (shared[slot.index], -slot.index))
    if shared[target.index] == shared[source.index]:
        source = target
    return target, source, shared[source.index]
