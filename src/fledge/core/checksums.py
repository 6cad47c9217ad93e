"""JSON objects that carry their own hash: a changed byte anywhere shows.

Against accidents of disks and copies, not against people: who changes a file can make a new seal for it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM_KEY = "seal"
SEALED = "sealed"  # says that there is a seal: one flipped bit cannot hide both


def with_checksum(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    marked = {**content, SEALED: True}
    return json.dumps({**marked, CHECKSUM_KEY: _hash(marked)}, indent=indent).encode()


def checked_content(raw: bytes, indent: int | None = None) -> dict[str, Any]:
    """What was sealed; a ValueError where anything has changed since. There is one spelling: not even a space may."""
    try:
        content = dict(json.loads(raw))
        whole = raw == json.dumps(content, indent=indent).encode() and content.pop(CHECKSUM_KEY) == _hash(content)
    except (KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError("the seal does not fit")
    return content


def verify(raw: bytes, indent: int | None = None) -> bool:
    """Whether the seal fits. Of a file that was written before there were seals nobody can tell."""
    try:
        content = json.loads(raw)
        if CHECKSUM_KEY in content or SEALED in content:
            checked_content(raw, indent)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
