"""Source that serves every model → the same source for one: each choice made, and what was not chosen left out.

Each rule looks at the text and gives edits. They are applied, one rule at a time, until none has anything more to say.
"""

from collections.abc import Callable

from fledge.exchange.rewriting.code import Code, Edit
from fledge.exchange.rewriting.decide import decide, leave_defaults_out, skip
from fledge.exchange.rewriting.forget import forget_attributes, forget_definitions, forget_members, forget_variables
from fledge.exchange.rewriting.join import join_bases, join_functions, join_layers
from fledge.exchange.rewriting.knowledge import Knowledge
from fledge.exchange.rewriting.parameters import forget_parameters
from fledge.exchange.rewriting.view import View

RULES: tuple[Callable[[View], list[Edit]], ...] = (
    decide,
    skip,
    leave_defaults_out,
    forget_attributes,
    forget_variables,
    forget_definitions,
    forget_members,
    forget_parameters,
    join_functions,
    join_bases,
    join_layers,
)


def specialise(text: str, knowledge: Knowledge, root: str) -> str:
    """`root`: the function that the text is there for."""
    code = Code(text)
    while edits := next_edits(View(code, knowledge, root)):
        code = code.edited(edits)
    return code.text


def next_edits(view: View) -> list[Edit]:
    return next((edits for rule in RULES if (edits := rule(view))), [])
