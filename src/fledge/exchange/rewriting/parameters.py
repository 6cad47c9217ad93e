"""A rule about parameters: one that its function does not read, or that is the same choice in every call, goes.

It looks at functions, constructors and methods of which every call is in the text: those that nobody passes on.
"""

import ast
from collections.abc import Iterator

from fledge.exchange.rewriting.code import Change, Edit
from fledge.exchange.rewriting.view import View

CHOICES = ("None", "True", "False", "0", "0.0")


def forget_parameters(view: View) -> Iterator[Change]:
    for function, calls in _with_all_calls(view):
        first = int([each.arg for each in function.args.args[:1]] == ["self"])
        for place in range(first, len(function.args.args)):
            parameter = Parameter(view, function, calls, place, place - first)
            if calls and parameter.is_needless():
                yield tuple(parameter.removed())


class Parameter:
    """One parameter of a function, and what it is in all calls."""

    def __init__(
        self, view: View, function: ast.FunctionDef, calls: list[ast.Call], place: int, place_in_calls: int
    ) -> None:
        self.code, self.function, self.calls = view.code, function, calls
        self.place, self.place_in_calls = place, place_in_calls
        self.name = function.args.args[place].arg
        self.reads = view.reads(self.name, *function.body)
        self.rebound = any(isinstance(n, ast.Name) and n.id == self.name for n in _stores(function))
        self.choice = self._choice()

    def is_needless(self) -> bool:
        starred = any(isinstance(argument, ast.Starred) for call in self.calls for argument in call.args)
        return not starred and not self.rebound and (self.choice is not None or not self.reads)

    def removed(self) -> Iterator[Edit]:
        for read in self.reads:
            yield self.code.instead(read, text=self.choice or "")
        for call in self.calls:
            if given := self._given(call):
                items = [*call.args, *call.keywords]
                yield self.code.without_item([self.code.span(item) for item in items], items.index(given))
        ends = [self._default(place) or each for place, each in enumerate(self.function.args.args)]
        spans = [
            (self.code.span(start)[0], self.code.span(end)[1])
            for start, end in zip(self.function.args.args, ends, strict=True)
        ]
        yield self.code.without_item(spans, self.place)

    def _choice(self) -> str | None:
        """What it is everywhere, if that is a choice."""
        found = set()
        for call in self.calls:
            given = self._given(call) or self._default(self.place)
            value = given.value if isinstance(given, ast.keyword) else given
            found.add(self.code.of(value) if isinstance(value, ast.Constant) else "")
        return next(iter(found)) if len(found) == 1 and found <= {*CHOICES} else None

    def _given(self, call: ast.Call) -> ast.expr | ast.keyword | None:
        """What stands for it in a call."""
        if self.place_in_calls < len(call.args):
            return call.args[self.place_in_calls]
        return next((keyword for keyword in call.keywords if keyword.arg == self.name), None)

    def _default(self, place: int) -> ast.expr | None:
        defaults = self.function.args.defaults
        number = place - len(self.function.args.args) + len(defaults)
        return defaults[number] if number >= 0 else None


def _stores(function: ast.FunctionDef) -> Iterator[ast.AST]:
    return (node for node in ast.walk(function) if isinstance(getattr(node, "ctx", None), ast.Store))


def _with_all_calls(view: View) -> Iterator[tuple[ast.FunctionDef, list[ast.Call]]]:
    for name, function in view.functions.items():
        if len(view.reads(name)) == len(view.calls(name)):
            yield function, view.calls(name)
    for name, definition in view.classes.items():
        is_base = any(isinstance(view.code.parents[read], ast.ClassDef) for read in view.reads(name))
        for method in definition.body:
            if isinstance(method, ast.FunctionDef) and not is_base:
                yield method, view.calls(name) if method.name == "__init__" else _calls_of(view, name, method.name)


def _calls_of(view: View, owner: str, method: str) -> list[ast.Call]:
    """Of a method, by objects of the class. A module is called by itself, which is its `forward`."""
    found = []
    for call in view.every(ast.Call):
        named = isinstance(call.func, ast.Attribute) and call.func.attr == method
        caller = call.func if method == "forward" else call.func.value if named else None
        if caller and view.values(caller) and view.may_be(caller, owner):
            found.append(call)
    return found
