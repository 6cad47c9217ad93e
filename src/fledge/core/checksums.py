"""JSON objects that carry their own SHA-256, so that any changed byte is detected.

Against failing disks and incomplete copies, not against people: anyone can compute a new checksum.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM_KEY = "checksum"


def with_checksum(content: Mapping[str, Any], indent: int | None = None) -> bytes:
    return json.dumps({**content, CHECKSUM_KEY: content_sha256(content)}, indent=indent).encode()


def checked_content(raw: bytes, indent: int | None = None) -> dict[str, Any]:
    """The object without its checksum; ValueError where anything has changed, white space included."""
    try:
        content = dict(json.loads(raw))
        intact = raw == json.dumps(content, indent=indent).encode() and content.pop(CHECKSUM_KEY) == content_sha256(
            content
        )
    except (KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise ValueError("the checksum does not match")
    return content


def verify(raw: bytes, indent: int | None = None) -> bool:
    """Whether the checksum matches."""
    try:
        checked_content(raw, indent)
    except ValueError:
        return False
    return True


def content_sha256(content: Mapping[str, Any]) -> str:
    """SHA-256 of the object as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
