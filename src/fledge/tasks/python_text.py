"""Excerpts of the embedded corpus by kind of text: the standard library of the Python that runs fledge.

code            functions, without their comments and docstrings
docstrings      of modules, classes and functions
comments        of several lines
prose           the language reference (pydoc_data/topics.py)

The same Python gives the same excerpts. A model that was trained on this corpus has seen them.
"""

import ast
import functools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from random import Random

from fledge.text.corpora import python_library

KINDS = ("code", "docstrings", "comments", "prose")
MODULES, EXCERPTS = 60, 40  # that are read; of each kind
SHORTEST, LONGEST = 160, 640  # characters of an excerpt
COMMENTS = re.compile(r"(?:^[ \t]*#(?!!)[^\n]*\n){2,}", re.MULTILINE)
SENTENCES = re.compile(r"[A-Z][^\n]*(\n\S[^\n]*)*\.")  # no lists, no code
TOPICS = "pydoc_data/topics.py"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def python_texts() -> dict[str, list[str]]:
    """Kind → excerpts; none where this Python has no such files."""
    files = {name: find() for name, find in python_library()}
    topics = files.pop(TOPICS, None)
    names = sorted(files)
    modules = [Path(files[name]) for name in names[:: max(1, len(names) // MODULES)]]
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in [*modules, *([Path(topics)] if topics else [])]:
        for kind, text in _excerpts(path, is_reference=str(path) == topics):
            if SHORTEST <= len(text) <= LONGEST:
                found[kind].append(text)
    chance = Random("excerpts")  # noqa: S311
    return {kind: chance.sample(texts, min(EXCERPTS, len(texts))) for kind, texts in found.items()}


def _excerpts(path: Path, is_reference: bool) -> Iterator[tuple[str, str]]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):  # not UTF-8, or an example of bad syntax
        return
    if is_reference:
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from (("prose", text) for text in node.value.split("\n\n") if SENTENCES.fullmatch(text))
        return
    yield from (("comments", textwrap.dedent(match.group()).strip()) for match in COMMENTS.finditer(source))
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED):
            yield "docstrings", ast.get_docstring(node) or ""
        if isinstance(node, ast.FunctionDef):
            yield "code", _without_comments(node, lines)


def _without_comments(function: ast.FunctionDef, lines: list[str]) -> str:
    body, end = function.body[0], function.end_lineno or function.lineno
    dropped = range(body.lineno, (body.end_lineno or 0) + 1) if ast.get_docstring(function) else range(0)
    kept = [number for number in range(function.lineno, end + 1) if number not in dropped]
    code = [lines[number - 1] for number in kept if not lines[number - 1].lstrip().startswith("#")]
    return textwrap.dedent("\n".join(line for line in code if line.strip()))
