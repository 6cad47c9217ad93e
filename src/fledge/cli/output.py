"""Print the result of a command on stdout."""

from typing import Any

from fledge.core.files import to_json
from fledge.core.formatting import printable


def report(value: Any, *, as_json: bool, text: str) -> None:
    """Print one JSON document, or text for people."""
    print(to_json(value, indent=1) if as_json else text, flush=True)


def token_text(content: bytes) -> str:
    """A token as text; one that holds part of a character as its bytes in hexadecimal."""
    try:
        return printable(content.decode())
    except UnicodeDecodeError:
        return f"<{content.hex(' ')}>"
