"""A rule: a parameter that its function does not read goes, and what calls give for it goes too."""

import ast
from collections.abc import Iterator

from fledge.exchange.rewriting.calls import Called
from fledge.exchange.rewriting.code import Change, Code, Edit
from fledge.exchange.rewriting.view import View


def forget_parameters(view: View) -> Iterator[Change]:
    for called in view.called:
        starred = any(isinstance(argument, ast.Starred) for call in called.calls for argument in call.args)
        for parameter in called.parameters if called.calls and not starred else ():
            if not view.reads(parameter.arg, *called.function.body):
                yield tuple(_removed(view.code, called, parameter))


def _removed(code: Code, called: Called, parameter: ast.arg) -> Iterator[Edit]:
    for call in called.calls:
        if given := called.given(call, parameter):
            items = [*call.args, *call.keywords]
            yield code.without_item([code.span(item) for item in items], items.index(given))
    arguments = called.function.args.args
    spans = [(code.span(each)[0], code.span(called.default(each) or each)[1]) for each in arguments]
    yield code.without_item(spans, arguments.index(parameter))
