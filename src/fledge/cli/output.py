"""Print the result of a command on stdout."""

import contextlib
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fledge.core.errors import UserError
from fledge.core.files import to_json
from fledge.core.formatting import printable
from fledge.runs.names import run_word

if TYPE_CHECKING:
    from fledge.training.result import TrainResult


def report(value: Any, *, as_json: bool, text: str) -> None:
    """Print `value` (a dataclass, or plain data that may hold some) as one JSON document, or text for people."""
    print(to_json(to_plain(value), indent=1) if as_json else text, flush=True)


def to_plain(value: Any) -> Any:
    """Dataclasses as dictionaries, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value) if field.repr}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def print_train_result(result: "TrainResult", *, as_json: bool) -> None:
    report(result, as_json=as_json, text=describe_train_result(result))


def describe_train_result(result: "TrainResult") -> str:
    """How it ended, which checkpoint is the best, advice, and the next commands."""
    word, end = run_word(Path(result.folder)), f"'{result.run}' finished at step {result.step:,}"
    lines = [end]
    if result.best_step is not None and result.val_loss is not None:
        split = "the whole validation split" if result.whole_split else "a sample of the validation split"
        bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.4f} bits per byte"
        loss = f"loss {result.val_loss:.4f}{bits} on {split}"
        earlier = f"best is step {result.best_step:,}, which 'fledge generate {word}' uses: {loss}"
        lines = [f"{end}; {earlier}" if result.best_step != result.step else f"{end}: {loss}"]
    if result.reward is not None:
        lines = [f"{end}; the best is step {result.best_step:,}: reward {result.reward:.4f} on held-out prompts"]
    lines = [*([result.stopped_early] if result.stopped_early else []), *lines]
    lines += [f"{advice.text}: {advice.command}" for advice in result.advice]
    use = {"pretrain": "generate", "reward": "eval"}.get(result.method, "chat")
    return "\n".join([*lines, f"next: fledge {use} {word} · fledge plot {word}"])


def one_line(text: str) -> str:
    """Escape control characters: a file name must not break the line or move the cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_error(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        print(text, file=sys.stderr)


def print_user_error(error: UserError) -> None:
    print_error(f"error: {one_line(error.message)}\nhint: {one_line(error.hint)}")


def token_text(content: bytes) -> str:
    """A token as text; one that holds part of a character as its bytes in hexadecimal."""
    try:
        return printable(content.decode())
    except UnicodeDecodeError:
        return f"<{content.hex(' ')}>"
