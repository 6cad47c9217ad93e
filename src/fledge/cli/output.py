"""The result of a verb on stdout: one JSON document, or words."""

from typing import Any

from fledge.core.files import to_json


def report(value: Any, *, as_json: bool, text: str) -> None:
    """The result: one JSON document, or words."""
    print(to_json(value, indent=1) if as_json else text, flush=True)
