"""A rule about parameters: one that its function does not read, or that is the same choice in every call, goes.

Only functions and constructors of which every call is in the text: those that nobody passes on or builds upon.
"""

import ast
from collections.abc import Iterator

from fledge.exchange.rewriting.code import Edit
from fledge.exchange.rewriting.view import View

CHOICES = ("None", "True", "False", "0.0")


class Parameter:
    """One parameter of a function, with all calls."""

    def __init__(self, view: View, function: ast.FunctionDef, calls: list[ast.Call], place: int) -> None:
        self.code, self.function, self.calls, self.place = view.code, function, calls, place
        self.name = function.args.args[place].arg
        self.reads = view.reads(self.name, *function.body)
        self.skipped = int(function.name == "__init__")  # `self` is in the definition and not in a call

    def default(self, place: int) -> ast.expr | None:
        arguments, defaults = self.function.args.args, self.function.args.defaults
        number = place - len(arguments) + len(defaults)
        return defaults[number] if number >= 0 else None

    def given(self, call: ast.Call) -> ast.expr | ast.keyword | None:
        """What stands for it in a call."""
        if self.place - self.skipped < len(call.args):
            return call.args[self.place - self.skipped]
        return next((keyword for keyword in call.keywords if keyword.arg == self.name), None)

    def choice(self) -> str | None:
        """What it is everywhere, if that is a choice."""
        found = set()
        for call in self.calls:
            given = self.given(call) or self.default(self.place)
            value = given.value if isinstance(given, ast.keyword) else given
            found.add(self.code.of(value) if isinstance(value, ast.Constant) else "")
        return found.pop() if len(found) == 1 and found <= {*CHOICES} else None

    def removed(self, choice: str) -> Iterator[Edit]:
        for read in self.reads:
            yield self.code.instead(read, text=choice)
        for call in self.calls:
            if given := self.given(call):
                items = [*call.args, *call.keywords]
                yield self.code.without_item([self.code.span(item) for item in items], items.index(given))
        ends = [self.default(place) or each for place, each in enumerate(self.function.args.args)]
        starts = [self.code.span(each)[0] for each in self.function.args.args]
        yield self.code.without_item([(s, self.code.span(e)[1]) for s, e in zip(starts, ends, strict=True)], self.place)


def forget_parameters(view: View) -> list[Edit]:
    """One at a time: the next is found in what is then left."""
    for name, function in _called_by_name(view):
        calls = view.calls(name)
        if not calls or any(isinstance(argument, ast.Starred) for call in calls for argument in call.args):
            continue
        for place in range(int(function.name == "__init__"), len(function.args.args)):
            parameter = Parameter(view, function, calls, place)
            choice = parameter.choice()
            if choice or not parameter.reads:
                return list(parameter.removed(choice or ""))
    return []


def _called_by_name(view: View) -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, function in view.functions.items():
        if len(view.reads(name)) == len(view.calls(name)):
            yield name, function
    for name, definition in view.classes.items():
        built_upon = any(isinstance(view.code.parents[read], ast.ClassDef) for read in view.reads(name))
        for member in definition.body:
            if isinstance(member, ast.FunctionDef) and member.name == "__init__" and not built_upon:
                yield name, member
