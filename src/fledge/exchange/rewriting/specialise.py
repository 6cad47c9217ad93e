"""Source that serves every model → the same source for one: each choice made, and what was not chosen left out.

A rule looks at the text and says what to change. Rules are asked in turn, from the first again after each change, until
none has anything more to say.
"""

from collections.abc import Callable, Iterable

from fledge.exchange.rewriting.code import Change, Code
from fledge.exchange.rewriting.decide import decide, leave_defaults_out, skip
from fledge.exchange.rewriting.forget import forget_attributes, forget_definitions, forget_members, forget_variables
from fledge.exchange.rewriting.join import join_answers, join_bases, join_functions, join_layers, join_methods
from fledge.exchange.rewriting.knowledge import Knowledge
from fledge.exchange.rewriting.parameters import forget_parameters
from fledge.exchange.rewriting.view import View

RULES: tuple[Callable[[View], Iterable[Change]], ...] = (
    forget_definitions,  # first, because the shorter the text, the sooner the others are through
    decide,
    skip,
    leave_defaults_out,
    forget_attributes,
    forget_variables,
    forget_members,
    forget_parameters,
    join_answers,
    join_functions,
    join_methods,
    join_bases,
    join_layers,
)


def specialise(text: str, knowledge: Knowledge, root: str) -> str:
    """`root`: the function that the text is there for."""
    code = Code(text)
    while changes := next_changes(View(code, knowledge, root)):
        code = code.changed(changes)
    return code.text


def next_changes(view: View) -> list[Change]:
    return next((changes for rule in RULES if (changes := list(rule(view)))), [])
