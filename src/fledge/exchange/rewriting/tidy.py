"""The last touch: imports as they are usually written, and lines as a formatter would break them."""

import ast
import re
import sys
from collections.abc import Iterable

from fledge.exchange.rewriting.code import Code, Edit
from fledge.exchange.rewriting.gather import Import

WIDTH = 120


def import_lines(imports: Iterable[Import]) -> str:
    """The standard library, then the others; `import` before `from`, and by name."""
    kept = sorted(set(imports), key=lambda each: (bool(each.name), each.module))
    ours = [each for each in kept if each.module.partition(".")[0] in sys.stdlib_module_names]
    theirs = [each for each in kept if each not in ours]
    return "\n\n".join("\n".join(_lines(group)) for group in (ours, theirs) if group)


def _lines(imports: list[Import]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for each in imports:
        alias = f" as {each.alias}" if each.alias else ""
        if not each.name:
            lines[f"import {each.module}{alias}"] = []
        else:
            lines.setdefault(f"from {each.module} import ", []).append(each.name + alias)
    return [line + ", ".join(sorted(names, key=_rank)) for line, names in lines.items()]


def _rank(name: str) -> tuple[int, str]:
    """Constants, classes, functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def one_line(text: str) -> str:
    """What stands on several lines, on one."""
    joined, *rows = map(str.strip, text.splitlines())
    for row in rows:
        if row[0] in ")]}":
            joined = joined.removesuffix(",") + row
        else:
            joined += row if joined[-1] in "([{" else f" {row}"
    return joined


def tidy(text: str) -> str:
    """Broken lines that have room on one are joined; two lines at most stay empty, and one within a definition."""
    text = re.sub(r"\n{4,}", "\n\n\n", text)
    text = re.sub(r"\n{3,}( +)", r"\n\n\1", text)
    code = Code(text)
    return code.changed(
        (edit,) for node in code.nodes if isinstance(node, ast.stmt) and (edit := _joined(code, node))
    ).text


def _joined(code: Code, node: ast.stmt) -> Edit | None:
    """A statement, or the head of one, on a single line, if it fits there."""
    first, end = node.lineno - 1, node.end_lineno or 0
    if body := getattr(node, "body", None):
        end = code.rows(body[0])[0]
    text = b"".join(code.lines[first:end]).decode()
    if text.count("\n") < 2 or "#" in text or '"""' in text or re.search(r",\s*[)\]}]", text):
        return None
    joined = " " * node.col_offset + one_line(text)
    return Edit(code.starts[first], code.starts[end], f"{joined}\n") if len(joined) <= WIDTH else None
