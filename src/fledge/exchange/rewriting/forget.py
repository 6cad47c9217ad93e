"""Rules that leave out what nobody uses any more.

forget_attributes     `self.name = …` in a part of the model
forget_variables      `name = …` in a function
forget_definitions    functions, classes and constants that cannot be reached from the root
forget_members        methods, and fields that have a default
"""

import ast
import dataclasses

from torch import nn

from fledge.exchange.rewriting.code import Edit, defined, globals_in
from fledge.exchange.rewriting.view import View


def forget_attributes(view: View) -> list[Edit]:
    edits = []
    for owner, definition in view.classes.items():
        for node in ast.walk(definition):
            match node:
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]):
                    if _is_known_and_not_learned(view, owner, name) and not view.is_attribute_read(owner, name):
                        edits.append(view.code.without(node))
    return edits


def _is_known_and_not_learned(view: View, owner: str, name: str) -> bool:
    """Weights stay, whoever reads them: files hold them."""
    held = [getattr(example, name, None) for example in view.knowledge.examples.get(owner, [])]
    learned = [each for each in held if isinstance(each, nn.Module) and list(each.parameters())]
    return bool(held) and not learned


def forget_variables(view: View) -> list[Edit]:
    for function in view.every(ast.FunctionDef):
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) if not view.reads(name, function):
                    return [view.code.without(node)]
                case ast.For(
                    target=ast.Tuple(elts=[one, other]), iter=ast.Call(func=ast.Name(id="zip"), args=[first, _])
                ):
                    if not view.reads(view.code.of(other), *node.body):
                        return [view.code.instead(node.target, one), view.code.instead(node.iter, first)]
                case ast.Assign(targets=[ast.Tuple(elts=names) as left], value=ast.Tuple(elts=values) as right):
                    kept = [i for i, name in enumerate(names) if view.reads(view.code.of(name), function)]
                    if len(kept) < len(names):
                        pairs = ((left, names), (right, values))
                        return [
                            view.code.instead(both, *(each[i] for i in kept), joint=ast.Tuple([]))
                            for both, each in pairs
                        ]
    return []


def forget_definitions(view: View) -> list[Edit]:
    used = _reached(view)
    return [view.code.without(node) for node in view.code.tree.body if (names := defined(node)) and not names & used]


def _reached(view: View) -> set[str]:
    definitions = {name: node for node in view.code.tree.body for name in defined(node)}
    used: set[str] = set()
    queue = [view.root]
    while queue:
        if (name := queue.pop()) not in used:
            used.add(name)
            queue += globals_in(definitions[name]) if name in definitions else ()
    return used


def forget_members(view: View) -> list[Edit]:
    return [
        view.code.without(member)
        for name, definition in view.classes.items()
        for member in definition.body
        if _is_unused(view, name, member)
    ]


def _is_unused(view: View, owner: str, member: ast.stmt) -> bool:
    real = view.knowledge.names[owner]
    assert isinstance(real, type)
    match member:
        case ast.FunctionDef(name=name) if not name.startswith("__"):
            theirs = (kind for kind in real.__mro__ if not kind.__module__.startswith("fledge."))
            asked = any(node.attr == name for node in view.every(ast.Attribute))
            return not asked and not any(hasattr(kind, name) for kind in theirs)  # torch calls some by itself
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()) if dataclasses.is_dataclass(real):
            return not view.is_attribute_read(owner, name)
    return False
