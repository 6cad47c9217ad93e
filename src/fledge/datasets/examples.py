"""One example of an alignment dataset, whatever format it was read from; and how examples are held out.

messages            the conversation up to the message that is answered
target              its answer: what SFT learns, and what rewards compare an answer with
chosen, rejected    two answers, the first of them better: what reward models and DPO learn
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

from fledge.tokenizers.chat_template import Message

HELD_OUT_SHARE = 10  # one of so many, at most


@dataclass(frozen=True)
class Example:
    messages: tuple[Message, ...]  # {"role": "user", "content": "Hello!"}
    chosen: str | None = None
    rejected: str | None = None
    target: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)  # anything else that a reward function reads


def split_examples(examples: Sequence[Example], val: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples: `val` of them or a tenth, whichever is less, by the hash of their messages.

    Examples with the same messages are on the same side, so that a held-out question was never trained on. Their order
    stays, and does not matter for which are held out.
    """
    room, held_out = min(val, len(examples) // HELD_OUT_SHARE), set[int]()
    digests = [_digest(each.messages) for each in examples]
    by_digest = sorted(range(len(examples)), key=digests.__getitem__)
    for _, group in groupby(by_digest, key=digests.__getitem__):
        numbers = list(group)
        if len(held_out) + len(numbers) <= room:
            held_out.update(numbers)
    train = [each for number, each in enumerate(examples) if number not in held_out]
    return train, [examples[number] for number in sorted(held_out)]


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of all examples, in order."""
    return _digest([asdict(each) for each in examples])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
