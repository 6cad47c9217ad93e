"""Rules that leave out what nobody uses any more.

forget_attributes     `self.name = …` in a part of the model
forget_variables      `name = …` in a function
forget_definitions    functions, classes and constants that cannot be reached from the root
forget_members        methods, and fields that have a default
"""

import ast
import dataclasses
from collections.abc import Iterator

from torch import nn

from fledge.exchange.rewriting.code import Change
from fledge.exchange.rewriting.knowledge import is_ours
from fledge.exchange.rewriting.scopes import defined, taken
from fledge.exchange.rewriting.view import View


def forget_attributes(view: View) -> Iterator[Change]:
    for owner, definition in view.classes.items():
        for node in ast.walk(definition):
            match node:
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]):
                    if view.examples(owner) and not _is_learned(view, owner, name) and not _is_read(view, owner, name):
                        yield (view.code.without(node),)


def _is_learned(view: View, owner: str, name: str) -> bool:
    """Weights stay, whoever reads them: files hold them."""
    held = [getattr(example, name, None) for example in view.examples(owner)]
    return any(isinstance(each, nn.Module) and list(each.parameters()) for each in held)


def _is_read(view: View, owner: str, name: str) -> bool:
    """Whether anybody reads this attribute of objects of this class, or may do so."""
    attributes = (node for node in view.every(ast.Attribute) if node.attr == name and isinstance(node.ctx, ast.Load))
    return any(view.may_be(node.value, owner) for node in attributes)


def forget_variables(view: View) -> Iterator[Change]:
    for function in view.every(ast.FunctionDef):
        for node in ast.walk(function):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)]) if not view.reads(name, function):
                    yield (view.code.without(node),)
                case ast.Assign(targets=[ast.Tuple(elts=names) as left], value=ast.Tuple(elts=values) as right):
                    kept = [place for place, name in enumerate(names) if not _is_unread(view, name, function)]
                    if not kept:
                        yield (view.code.without(node),)
                    elif len(kept) < len(names):
                        yield tuple(
                            view.code.instead(both, *(parts[place] for place in kept), joint=ast.Tuple(elts=[]))
                            for both, parts in ((left, names), (right, values))
                        )
                case ast.For(target=ast.Tuple(elts=[one, other]) as pair, iter=ast.Call(args=[several, _]) as zipped):
                    if not view.reads(view.code.of(other), *node.body):
                        yield view.code.instead(pair, one), view.code.instead(zipped, several)


def _is_unread(view: View, name: ast.expr, function: ast.FunctionDef) -> bool:
    return isinstance(name, ast.Name) and not view.reads(name.id, function)


def forget_definitions(view: View) -> Iterator[Change]:
    used = _reached(view)
    for node in view.code.tree.body:
        if not defined(node) & used:
            yield (view.code.without(node),)


def _reached(view: View) -> set[str]:
    definitions = {name: node for node in view.code.tree.body for name in defined(node)}
    used: set[str] = set()
    queue = [view.root]
    while queue:
        if (name := queue.pop()) not in used:
            used.add(name)
            queue += taken(definitions[name]) if name in definitions else ()
    return used


def forget_members(view: View) -> Iterator[Change]:
    for owner, definition in view.classes.items():
        for member in definition.body:
            match member:
                case ast.FunctionDef(name=name) if not name.startswith("__") and not _is_asked(view, owner, name):
                    yield (view.code.without(member),)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
                    if dataclasses.is_dataclass(view.knowledge.names[owner]) and not _is_read(view, owner, name):
                        yield (view.code.without(member),)


def _is_asked(view: View, owner: str, name: str) -> bool:
    """Whether anybody names a method; some are called by torch's own classes, unseen."""
    real = view.knowledge.names[owner]
    assert isinstance(real, type)
    theirs = (kind for kind in real.__mro__ if not is_ours(kind))
    return _is_read(view, owner, name) or any(hasattr(kind, name) for kind in theirs)
