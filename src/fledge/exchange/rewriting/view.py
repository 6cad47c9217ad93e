"""One state of a text that is being rewritten, and what is known there: what rules look at."""

import ast
from collections.abc import Iterator
from typing import Any

from fledge.exchange.rewriting.calls import Called
from fledge.exchange.rewriting.code import Code
from fledge.exchange.rewriting.knowledge import Knowledge, Values

ROUNDS = 3  # how many functions deep what is given is followed


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
        self.called = list(self._called())
        for _ in range(ROUNDS):
            self._follow_what_is_given()

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

    def _called(self) -> Iterator[Called]:
        """Not those that somebody passes on, or builds upon."""
        for name, function in self.functions.items():
            if len(self.reads(name)) == len(self.calls(name)):
                yield Called(function, self.calls(name))
        for name, definition in self.classes.items():
            is_base = any(isinstance(self.code.parents[read], ast.ClassDef) for read in self.reads(name))
            for method in definition.body:
                if isinstance(method, ast.FunctionDef) and not is_base:
                    of_method = self.calls(name) if method.name == "__init__" else self._calls_of(name, method.name)
                    yield Called(method, of_method)

    def _calls_of(self, owner: str, method: str) -> list[ast.Call]:
        """Of a method, by objects of the class. A module is called by itself, which is its `forward`."""
        found = []
        for call in self.every(ast.Call):
            named = isinstance(call.func, ast.Attribute) and call.func.attr == method
            caller = call.func if method == "forward" else call.func.value if named else None
            if caller and self.values(caller) and self.may_be(caller, owner):
                found.append(call)
        return found

    def _follow_what_is_given(self) -> None:
        """What a parameter is in all calls is known within the function."""
        for called in self.called:
            scope = self.scopes[called.function.body[0]]
            for parameter in called.parameters:
                if scope.get(parameter.arg) is None and called.calls and not called.is_rebound(parameter):
                    given = [called.value(call, parameter) for call in called.calls]
                    values = [self.values(value) if value else None for value in given]
                    known = [each for each in values if each is not None]
                    if len(known) == len(values):
                        scope[parameter.arg] = [value for each in known for value in each]
