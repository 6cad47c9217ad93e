"""Python text that is changed in places: where each node stands, which names it holds, and what is cut or put there.

Comments, blank lines and line breaks stay as they were written, which a tree alone does not know of. Decides nothing.
"""

import ast
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# How strongly each kind of expression holds together: one within a stronger one needs brackets.
STRENGTHS: dict[type, int] = {
    type(None): 0,
    ast.IfExp: 1,
    ast.Or: 2,
    ast.And: 3,
    ast.Not: 4,
    ast.Compare: 5,
    ast.BinOp: 6,
    ast.UnaryOp: 7,
}
STRONGEST = 8
MARKS = (ast.expr_context, ast.boolop, ast.operator, ast.unaryop, ast.cmpop)  # one object each, in many places
JOINTS: dict[type, str] = {ast.Or: " or ", ast.And: " and ", ast.Tuple: ", "}


@dataclass(frozen=True, order=True)
class Edit:
    """What replaces the bytes from `start` to `end`."""

    start: int
    end: int
    text: str = ""


Change = tuple[Edit, ...]  # edits that are made together or not at all


class Code:
    def __init__(self, text: str) -> None:
        self.text = text
        self.raw = text.encode()  # the tree counts in bytes
        self.tree = ast.parse(text)
        self.lines = self.raw.splitlines(keepends=True)
        self.starts = list(itertools.accumulate(map(len, self.lines), initial=0))
        self.nodes: list[ast.AST] = [self.tree]  # from the top down
        self.parents: dict[ast.AST, ast.AST] = {}
        for node in self.nodes:  # which grows meanwhile
            children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, MARKS)]
            self.parents |= dict.fromkeys(children, node)
            self.nodes += children

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def of(self, *nodes: ast.AST) -> str:
        """The text from the first of these nodes to the last."""
        return self.raw[self.span(nodes[0])[0] : self.span(nodes[-1])[1]].decode()

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.parents:
            node = self.parents[node]
            yield node

    def changed(self, changes: Iterable[Change]) -> "Code":
        """With these changes; one that overlaps an earlier one waits: if it is still right, it is found again."""
        made: list[Edit] = []
        for change in changes:
            if not any(edit.start < other.end and other.start < edit.end for edit in change for other in made):
                made += change
        pieces, done = [], 0
        for edit in sorted(made):
            pieces += [self.raw[done : edit.start], edit.text.encode()]
            done = edit.end
        return Code(b"".join([*pieces, self.raw[done:]]).decode())

    def rows(self, statement: ast.stmt) -> tuple[int, int]:
        """The first line of a statement, its decorators and the comment above it; and the line after it."""
        decorators = getattr(statement, "decorator_list", [])
        first = min(node.lineno for node in (statement, *decorators)) - 1
        while first and self.lines[first - 1].lstrip().startswith(b"#"):
            first -= 1
        return first, statement.end_lineno or 0

    def whole(self, *statements: ast.stmt) -> str:
        """Statements in all their lines."""
        return "".join(b"".join(self.lines[slice(*self.rows(each))]).decode() for each in statements)

    def without(self, statement: ast.stmt) -> Edit:
        first, end = self.rows(statement)
        return Edit(self.starts[first], self.starts[end])

    def without_item(self, items: list[tuple[int, int]], place: int) -> Edit:
        """One of several spans in a row, and the comma that goes with it."""
        start, end = items[place]
        if place + 1 < len(items):
            return Edit(start, items[place + 1][0])
        return Edit(items[place - 1][1] if place else start, end)

    def instead(self, node: ast.expr, *by: ast.expr, text: str = "", joint: ast.AST | None = None) -> Edit:
        """Other text in the place of an expression: as given, or that of other expressions, held together by `joint`.

        In brackets where it needs them, and only there.
        """
        start, end = self.span(node)
        if self.raw[start - 1 : start] == b"(" and self.raw[end : end + 1] == b")" and self._only_groups(start - 1):
            start, end = start - 1, end + 1
        if text:
            return Edit(start, end, text)
        new = JOINTS.get(type(joint), "").join(map(self.of, by))
        loose = _strength(joint if len(by) > 1 else by[0]) < _strength(_puller(self.parents[node], node))
        return Edit(start, end, f"({new})" if loose else new)

    def _only_groups(self, bracket: int) -> bool:
        """Whether this bracket holds an expression together; else it opens a call or a definition."""
        before = self.raw[bracket - 1 : bracket]
        return not (before.isalnum() or before in (b"_", b")", b"]"))


def _strength(node: ast.AST | None) -> int:
    operator = getattr(node, "op", None)
    return STRENGTHS.get(type(operator), 0) or STRENGTHS.get(type(node), STRONGEST)


def _puller(parent: ast.AST, node: ast.AST) -> ast.AST | None:
    """What pulls on an expression in this place; nothing pulls on an argument, or on what is assigned."""
    if isinstance(parent, ast.Attribute | ast.Subscript | ast.Starred) and parent.value is node:
        return parent
    if isinstance(parent, ast.Call) and parent.func is node:
        return parent
    return parent if isinstance(parent, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Compare | ast.IfExp) else None
