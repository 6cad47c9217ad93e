"""One state of a text that is being rewritten, and what is known there: what rules look at."""

import ast
from collections.abc import Iterator
from typing import Any

from fledge.exchange.rewriting.code import Code
from fledge.exchange.rewriting.knowledge import Knowledge, Values


class View:
    def __init__(self, code: Code, knowledge: Knowledge, root: str) -> None:
        """`root`: the function that the text is there for."""
        self.code, self.knowledge, self.root = code, knowledge, root
        self.scopes = knowledge.scopes(code)
        self.classes = {node.name: node for node in code.tree.body if isinstance(node, ast.ClassDef)}
        self.functions = {node.name: node for node in code.tree.body if isinstance(node, ast.FunctionDef)}
        self._reads: dict[str, list[ast.Name]] = {}
        for name in self.every(ast.Name):
            if isinstance(name.ctx, ast.Load):
                self._reads.setdefault(name.id, []).append(name)

    def values(self, node: ast.AST) -> Values:
        return self.knowledge.values(node, self.scopes[node])

    def truth(self, node: ast.AST) -> bool | None:
        return self.knowledge.truth(node, self.scopes[node])

    def examples(self, name: str) -> list[Any]:
        """All objects of a class."""
        return self.knowledge.examples.get(name, [])

    def every(self, kind: type[Any]) -> Iterator[Any]:
        return (node for node in self.code.nodes if isinstance(node, kind))

    def reads(self, name: str, *inside: ast.AST) -> list[ast.Name]:
        """Where a name is read: anywhere, or below one of these."""
        reads = self._reads.get(name, [])
        return [read for read in reads if not inside or any(node in inside for node in self.code.above(read))]

    def calls(self, name: str) -> list[ast.Call]:
        """Where a function or class is called by its name."""
        parents = ((read, self.code.parents[read]) for read in self.reads(name))
        return [parent for read, parent in parents if isinstance(parent, ast.Call) and parent.func is read]

    def may_be(self, node: ast.AST, owner: str) -> bool:
        """Whether an expression may be an object of this class."""
        values = self.values(node)
        return values is None or any(value is example for value in values for example in self.examples(owner))
