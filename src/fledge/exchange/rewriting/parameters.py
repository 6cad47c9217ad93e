"""A rule about parameters: one that its function does not read, or that is the same choice in every call, goes.

Only functions and constructors of which every call is in the text: those that nobody passes on or builds upon.
"""

import ast
from collections.abc import Iterator

from fledge.exchange.rewriting.code import Edit
from fledge.exchange.rewriting.view import View

CHOICES = ("None", "True", "False", "0", "0.0")


class Parameter:
    """One parameter of a function, with all calls."""

    def __init__(self, view: View, function: ast.FunctionDef, calls: list[ast.Call], place: int) -> None:
        self.code, self.function, self.calls, self.place = view.code, function, calls, place
        self.name = function.args.args[place].arg
        self.reads = view.reads(self.name, *function.body)
        self.skipped = int(function.args.args[0].arg == "self")  # which is in the definition and not in a call

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
    for function, calls in _with_all_calls(view):
        if not calls or any(isinstance(argument, ast.Starred) for call in calls for argument in call.args):
            continue
        for place in range(
            int(function.args.args[:1] != [] and function.args.args[0].arg == "self"), len(function.args.args)
        ):
            parameter = Parameter(view, function, calls, place)
            choice = parameter.choice()
            if choice or not parameter.reads:
                return list(parameter.removed(choice or ""))
    return []


def _with_all_calls(view: View) -> Iterator[tuple[ast.FunctionDef, list[ast.Call]]]:
    for name, function in view.functions.items():
        if len(view.reads(name)) == len(view.calls(name)):
            yield function, view.calls(name)
    for name, definition in view.classes.items():
        built_upon = any(isinstance(view.code.parents[read], ast.ClassDef) for read in view.reads(name))
        examples = view.knowledge.examples.get(name, [])
        for method in definition.body if not built_upon else ():
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                yield method, view.calls(name)
            elif isinstance(method, ast.FunctionDef) and examples:
                yield method, _calls_of_method(view, name, method.name)


def _calls_of_method(view: View, owner: str, name: str) -> list[ast.Call]:
    """A module is called by itself, which is its `forward`; other methods by their name."""
    found = []
    examples = view.knowledge.examples[owner]
    for call in view.every(ast.Call):
        caller = (
            call.func
            if name == "forward"
            else call.func.value
            if isinstance(call.func, ast.Attribute) and call.func.attr == name
            else None
        )
        values = view.values(caller) if caller else None
        if values and any(value is example for value in values for example in examples):
            found.append(call)
    return found
