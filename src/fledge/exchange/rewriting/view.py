"""One state of a text that is being rewritten, and what is known there. What rules look at."""

import ast
from collections.abc import Iterator
from typing import Any

from fledge.exchange.rewriting.code import Code
from fledge.exchange.rewriting.knowledge import Knowledge, Values


class View:
    def __init__(self, code: Code, knowledge: Knowledge, root: str) -> None:
        """`root`: the name that the text is there for."""
        self.code, self.knowledge, self.root = code, knowledge, root
        self.scopes = knowledge.scopes(code.tree)
        self.classes = {node.name: node for node in code.tree.body if isinstance(node, ast.ClassDef)}
        self.names: dict[str, list[ast.Name]] = {}  # where each name is read
        for name in self.every(ast.Name):
            if isinstance(name.ctx, ast.Load):
                self.names.setdefault(name.id, []).append(name)
        self.functions = {node.name: node for node in code.tree.body if isinstance(node, ast.FunctionDef)}

    def values(self, node: ast.AST) -> Values:
        return self.knowledge.values(node, self.scopes[node])

    def truth(self, node: ast.AST) -> bool | None:
        return self.knowledge.truth(node, self.scopes[node])

    def every(self, kind: type[Any]) -> Iterator[Any]:
        return (node for node in self.code.nodes if isinstance(node, kind))

    def calls(self, name: str) -> list[ast.Call]:
        """The calls of a function or class by its name."""
        parents = ((read, self.code.parents[read]) for read in self.reads(name))
        return [parent for read, parent in parents if isinstance(parent, ast.Call) and parent.func is read]

    def reads(self, name: str, *inside: ast.AST) -> list[ast.Name]:
        """Where a name is read, below these nodes or anywhere."""
        return [
            read for read in self.names.get(name, ()) if not inside or any(each in inside for each in self.above(read))
        ]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while node in self.code.parents:
            node = self.code.parents[node]
            yield node

    def is_attribute_read(self, owner: str, name: str) -> bool:
        """Whether anybody reads this attribute of objects of this class, or may do so."""
        examples = self.knowledge.examples.get(owner, [])
        for node in self.every(ast.Attribute):
            if node.attr == name and isinstance(node.ctx, ast.Load):
                bases = self.values(node.value)
                if bases is None or any(base is example for base in bases for example in examples):
                    return True
        return False
