"""Which calls a function gets, and what each of them gives it."""

import ast
from dataclasses import dataclass

from fledge.exchange.rewriting.scopes import bindings


@dataclass(frozen=True)
class Called:
    """A function, constructor or method of which every call is known."""

    function: ast.FunctionDef
    calls: list[ast.Call]

    @property
    def parameters(self) -> list[ast.arg]:
        return [each for each in self.function.args.args if each.arg != "self"]

    def is_rebound(self, parameter: ast.arg) -> bool:
        """Whether its name means something else later in the function."""
        return parameter.arg in {name for name, _ in bindings(self.function)}

    def given(self, call: ast.Call, parameter: ast.arg) -> ast.expr | ast.keyword | None:
        """What stands for a parameter in a call."""
        place = self.parameters.index(parameter)
        if place < len(call.args):
            return call.args[place]
        return next((keyword for keyword in call.keywords if keyword.arg == parameter.arg), None)

    def value(self, call: ast.Call, parameter: ast.arg) -> ast.expr | None:
        """What a parameter is in a call."""
        given = self.given(call, parameter) or self.default(parameter)
        return given.value if isinstance(given, ast.keyword) else given

    def default(self, parameter: ast.arg) -> ast.expr | None:
        backwards = self.function.args.args[::-1].index(parameter)
        defaults = self.function.args.defaults[::-1]
        return defaults[backwards] if backwards < len(defaults) else None
