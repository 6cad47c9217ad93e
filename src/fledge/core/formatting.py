"""Counts and columns for people: plural forms, and text cut to the cells of a terminal."""

import unicodedata


def counted(count: int, one: str, many: str = "") -> str:
    """1 file · 2 files · 3 geese"""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


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
