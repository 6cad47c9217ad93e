"""JSON objects that carry their own hash: a changed byte anywhere shows.

Against accidents of disks and copies, not against people: who changes a file can make a new seal for it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
SEALED = "sealed"  # says that there is a seal: one flipped bit cannot hide both


def sealed(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    marked = {**content, SEALED: True}
    return json.dumps({**marked, SEAL: _hash(marked)}, indent=indent).encode()


def unsealed(raw: bytes, indent: int | None = None) -> dict[str, Any]:
    """What was sealed; a ValueError where anything has changed since. There is one spelling: not even a space may."""
    try:
        content = dict(json.loads(raw))
        whole = raw == json.dumps(content, indent=indent).encode() and content.pop(SEAL) == _hash(content)
    except (KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError("the seal does not fit")
    return content


def intact(raw: bytes, indent: int | None = None) -> bool:
    """Whether the seal fits. Of a file that was written before there were seals nobody can tell."""
    try:
        content = json.loads(raw)
        if SEAL in content or SEALED in content:
            unsealed(raw, indent)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
