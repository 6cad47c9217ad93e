"""JSON objects that carry their own hash: a changed byte anywhere shows.

Against accidents of disks and copies, not against people: who changes a file can make a new seal for it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"


def sealed(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    """There is one spelling only, so that not even a space can change unseen."""
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, SEAL: seal}, sort_keys=True, indent=indent).encode()


def unsealed(raw: bytes, indent: int | None = None) -> dict[str, Any]:
    """What was sealed; a ValueError where anything has changed since."""
    try:
        content = json.loads(raw)
        del content[SEAL]
        whole = raw == sealed(content, indent)
    except (KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError("the seal does not fit")
    return dict(content)
