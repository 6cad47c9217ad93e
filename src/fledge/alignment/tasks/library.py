"""Questions about Python's standard library, the embedded corpus: what does json.dumps do? Docstrings answer them."""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from fledge.alignment.tasks.base import Problem, Task
from fledge.text.corpora import python_library

SHORTEST, LONGEST = 12, 100  # characters of an answer
SENTENCE = re.compile(r"[A-Z].*?\.(?=\s|$)", re.DOTALL)
WORD = re.compile(r"(?<![\w.'\\])[a-z]{3,10}(?![\w.('\\])")
DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def docstrings() -> tuple[tuple[str, str], ...]:
    """Name and docstring of the public modules, classes, functions and methods, in the order of the files."""
    return tuple(pair for name, find in python_library() for pair in _docstrings(name, Path(find())))


def _docstrings(file: str, path: Path) -> Iterator[tuple[str, str]]:
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    if name.startswith("_") or "._" in name:
        return
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):  # not UTF-8, or an example of bad syntax
        return
    yield name, ast.get_docstring(module) or ""
    for node in module.body:
        for member in (node, *(node.body if isinstance(node, ast.ClassDef) else [])):
            if isinstance(member, DOCUMENTED) and not member.name.startswith("_"):
                parts = [name, node.name, member.name] if member is not node else [name, node.name]  # type: ignore[attr-defined]
                yield ".".join(parts), ast.get_docstring(member) or ""


@functools.cache
def questions() -> tuple[tuple[str, str], ...]:
    """Name and first sentence, of those with a short one."""
    found = {}
    for name, text in docstrings():
        if match := SENTENCE.match(text):
            sentence = " ".join(match[0].split())
            if SHORTEST <= len(sentence) <= LONGEST and sentence.isascii():
                found[name] = sentence
    return tuple(found.items())


@functools.cache
def words() -> tuple[str, ...]:
    """The words of the docstrings: lower case, 3 to 10 letters, sorted."""
    counts = Counter(word for _, text in docstrings() for word in WORD.findall(text))
    return tuple(sorted(counts))


def problems(chance: Random) -> Iterator[Problem]:
    """The rejected answer is that of another question."""
    order = chance.sample(questions(), len(questions()))
    for (name, sentence), (_, other) in zip(order, order[1:] + order[:1], strict=True):
        if sentence != other:
            yield Problem(f"What does {name} do?", sentence, other)


def overlap(prompt: str, answer: str, target: str | None) -> float:  # noqa: ARG001
    """How many words the answer has in common with the target: the harmonic mean of precision and recall (F1)."""
    given, wanted = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, target or ""))
    common = (given & wanted).total()
    return 2 * common / (given.total() + wanted.total()) if common else 0.0


TASK = Task("docstrings", "say what a function of Python's library does; rewarded by common words", problems, overlap)
