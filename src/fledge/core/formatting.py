"""Text for people: plural forms, durations, short paths, and text that is safe and fits in a terminal."""

import unicodedata
from pathlib import Path

# Unicode categories: control characters, invisible format characters (they can reorder text), line separators
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def counted(count: int, one: str, many: str = "") -> str:
    """1 file · 2 files · 3 branches (`many` = "branches")"""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def short_count(number: float) -> str:
    """999,999 · 1.06 billion"""
    for unit, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,.0f}"


def fit_cells(text: str, width: int) -> str:
    """`text` in exactly so many cells of a terminal, where Chinese characters take two: cut, or filled with spaces."""
    kept, used = [], 0
    for character in text:
        cells = 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        if used + cells > width:
            break
        kept.append(character)
        used += cells
    return "".join(kept) + " " * (width - used)


def shorten(text: str, width: int) -> str:
    """No wider than `width` cells; what is cut ends in an ellipsis."""
    fitted = fit_cells(text, width)
    return text if fitted.rstrip() == text.rstrip() else f"{fit_cells(text, width - 1).rstrip()}…"


def printable(text: str) -> str:
    """Replace control characters by '�': printed as they are, they could move the cursor of a terminal."""
    return "".join("�" if unicodedata.category(c) in UNSAFE and c not in "\n\t" else c for c in text)


def format_duration(seconds: float) -> str:
    """4 s · 3 min 20 s · 2 h 05 min"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_path(path: Path) -> str:
    """The path relative to the current directory where it lies below it, else as it is."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
