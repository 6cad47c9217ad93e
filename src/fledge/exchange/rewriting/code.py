"""Python text that is changed in places: where each node stands, and what is cut or put there.

Comments, blank lines and line breaks stay as they were written, which a tree alone does not know of. Decides nothing.
"""

import ast
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# How strongly a kind of expression holds together; one inside a stronger one needs brackets.
STRENGTHS: dict[type, int] = {
    type(None): 0,
    ast.Lambda: 0,
    ast.IfExp: 1,
    ast.Or: 2,
    ast.And: 3,
    ast.Not: 4,
    ast.Compare: 5,
    ast.BinOp: 6,
    ast.UnaryOp: 7,
}
ATOM = 9
JOINTS: dict[type, str] = {ast.Or: " or ", ast.And: " and ", ast.Tuple: ", "}


@dataclass(frozen=True, order=True)
class Edit:
    """What replaces the bytes from `start` to `end`."""

    start: int
    end: int
    text: str = ""


def one_line(text: str) -> str:
    """What stands on several lines, on one."""
    joined, *rows = map(str.strip, text.splitlines())
    for row in rows:
        joined += row if joined[-1] in "([{" or row[0] in ")]}" else f" {row}"
    return joined


class Code:
    def __init__(self, text: str) -> None:
        self.text = text
        self.raw = text.encode()  # the tree counts in bytes
        self.tree = ast.parse(text)
        self.lines = self.raw.splitlines(keepends=True)
        self.starts = list(itertools.accumulate(map(len, self.lines), initial=0))
        self.nodes = list(ast.walk(self.tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def of(self, *nodes: ast.AST) -> str:
        """The text from the first of these nodes to the last."""
        return self.raw[self.span(nodes[0])[0] : self.span(nodes[-1])[1]].decode()

    def edited(self, edits: Iterable[Edit]) -> "Code":
        """Of edits that overlap only the first is made: the others are found again, if they are still right."""
        pieces, done = [], 0
        for edit in sorted(set(edits), key=lambda each: (each.start, -each.end)):
            if edit.start >= done:
                pieces += [self.raw[done : edit.start], edit.text.encode()]
                done = edit.end
        return Code(b"".join([*pieces, self.raw[done:]]).decode())

    def rows(self, statement: ast.stmt) -> tuple[int, int]:
        """Numbers of the first line of a statement, with decorators and the comment above it, and of the one after."""
        decorators = getattr(statement, "decorator_list", [])
        first = min(node.lineno for node in (statement, *decorators)) - 1
        while first and self.lines[first - 1].lstrip().startswith(b"#"):
            first -= 1
        return first, statement.end_lineno or 0

    def whole(self, statement: ast.stmt) -> str:
        """A statement in all its lines."""
        first, end = self.rows(statement)
        return b"".join(self.lines[first:end]).decode()

    def without(self, statement: ast.stmt) -> Edit:
        first, end = self.rows(statement)
        return Edit(self.starts[first], self.starts[end])

    def instead(self, node: ast.expr, *by: ast.expr, text: str = "", joint: ast.AST | None = None) -> Edit:
        """Other text in the place of an expression: as given, or that of other expressions, held together by `joint`.

        In brackets where it needs them, and only there.
        """
        start, end = self.span(node)
        if self.raw[start - 1 : start] == b"(" and self.raw[end : end + 1] == b")" and self._groups(start - 1):
            start, end = start - 1, end + 1
        if text:
            return Edit(start, end, text)
        new = JOINTS.get(type(joint), "").join(self.of(part) for part in by)
        loose = _strength(joint if joint and len(by) > 1 else by[0]) < _strength(_holder(self.parents[node], node))
        return Edit(start, end, f"({new})" if loose else new)

    def _groups(self, bracket: int) -> bool:
        """Whether this bracket holds an expression together; else it opens a call or a definition."""
        before = self.raw[bracket - 1 : bracket]
        return not (before.isalnum() or before in (b"_", b")", b"]"))

    def without_item(self, items: list[tuple[int, int]], index: int) -> Edit:
        """One of several spans in a row, and the comma that goes with it."""
        start, end = items[index]
        if index + 1 < len(items):
            return Edit(start, items[index + 1][0])
        return Edit(items[index - 1][1] if index else start, end)


def _strength(node: ast.AST | None) -> int:
    if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        return STRENGTHS[type(node.op)]
    return STRENGTHS.get(type(node), ATOM)


def _holder(parent: ast.AST, node: ast.AST) -> ast.AST | None:
    """What would pull on an expression in this place: nothing pulls on an argument or on the value of an assignment."""
    pulled = isinstance(parent, ast.BinOp | ast.BoolOp | ast.UnaryOp | ast.Compare | ast.IfExp)
    taken = isinstance(parent, ast.Attribute | ast.Subscript | ast.Call | ast.Starred) and node is getattr(
        parent, "value", getattr(parent, "func", None)
    )
    return parent if pulled or taken else None


def bindings(function: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """Each name that a function binds, and what to: a value, or the loop that it walks through."""
    simple: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                simple |= dict(zip(targets, values, strict=True))
            case ast.Assign(targets=[target], value=value):
                simple[target] = value
            case ast.For(target=ast.Tuple(elts=targets), iter=ast.Call(func=ast.Name(id="zip"), args=lists)):
                simple |= {target: ast.For(target, each) for target, each in zip(targets, lists, strict=True)}
            case ast.For(target=target):
                simple[target] = node
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, simple.get(node)
            case ast.alias(name=name, asname=other):
                yield other or name, None
            case ast.FunctionDef(name=name) if node is not function:
                yield name, None


def defined(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives a meaning."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=[target]):
            return {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
    return set()


def globals_in(node: ast.AST, hidden: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names that it reads and that are not its own."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        own = {name for name, _ in bindings(node)}
        hidden |= own | {parameter.arg for parameter in ast.walk(node.args) if isinstance(parameter, ast.arg)}
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in hidden:
        yield node.id
    for child in ast.iter_child_nodes(node):
        yield from globals_in(child, hidden)
