"""Print the result of a command on stdout."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.core.files import to_json
from fledge.core.formatting import printable

if TYPE_CHECKING:
    from fledge.training.result import TrainResult


def report(value: Any, *, as_json: bool, text: str) -> None:
    """Print `value` (a dataclass, or plain data that may hold some) as one JSON document, or text for people."""
    print(to_json(to_plain(value), indent=1) if as_json else text, flush=True)


def to_plain(value: Any) -> Any:
    """Dataclasses as dictionaries, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_train_result(result: "TrainResult", *, as_json: bool) -> None:
    loss = "" if result.val_loss is None else f", best validation loss {result.val_loss:.4f}"
    words = f"'{result.run}' finished at step {result.step:,}{loss}"
    next_steps = f"next: fledge generate {result.run} · fledge plot {result.run}"
    report(result, as_json=as_json, text=f"{words}\n{next_steps}")


def token_text(content: bytes) -> str:
    """A token as text; one that holds part of a character as its bytes in hexadecimal."""
    try:
        return printable(content.decode())
    except UnicodeDecodeError:
        return f"<{content.hex(' ')}>"
