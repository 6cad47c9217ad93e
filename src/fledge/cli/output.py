"""Print the result of a command on stdout."""

from typing import Any

from fledge.core.files import to_json


def report(value: Any, *, as_json: bool, text: str) -> None:
    """Print one JSON document, or text for people."""
    print(to_json(value, indent=1) if as_json else text, flush=True)
