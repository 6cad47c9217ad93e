"""Text from models, files and users stays text: it becomes no markup, and moves or reorders nothing beside it."""

import html
import re
import unicodedata

from fledge.core.formatting import UNSAFE

JOINERS = "\u200c\u200d"  # parts of words in some scripts, and of emoji
CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~$!&])")


def visible(text: str) -> str:
    """Control characters as their pictures (ESC: ␛), and those that reorder text as �."""
    text = text.translate(CONTROL_PICTURES)
    return "".join("�" if unicodedata.category(c) in UNSAFE and c not in "\n\t" + JOINERS else c for c in text)


def escape_html(text: str) -> str:
    return html.escape(visible(text), quote=True)


def escape_markdown(text: str) -> str:
    """For a line of a paragraph, or a cell of a table."""
    return MARKDOWN.sub(r"\\\1", visible(text).replace("\n", " ").replace("\t", " "))


def fenced(text: str) -> str:
    """A Markdown code block, its fence longer than any inside it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}\n{visible(text)}\n{fence}"
