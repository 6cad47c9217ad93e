"""Numbers and settings as a person reads them."""

import json
from typing import Any

from fledge.core.formatting import format_duration


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any) -> str:
    """1.8784 · 5,438 · 0.00012; nothing for what is no number."""
    if not is_number(value):
        return ""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def whole(value: Any) -> str:
    return f"{value:,.0f}" if is_number(value) else ""


def duration(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)


def plain(name: str) -> str:
    return name.replace("_", " ")


def setting(value: Any) -> str:
    """As a command takes it."""
    return "unset" if value is None else json.dumps(value, ensure_ascii=False).strip('"')


def show(value: Any) -> str:
    """A fact as a person reads it."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(show, value)) or "none"
    return str(value)
