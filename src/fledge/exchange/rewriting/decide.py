"""Rules that make choices.

decide                a condition that is known keeps one of its sides; a table gives what is looked up in it
skip                  what gives its input back unchanged is not called
leave_defaults_out    an argument that, now that it is chosen, is what would be taken anyway
"""

import ast
import inspect
import itertools
import json
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch.nn.functional as F
from torch import nn

from fledge.exchange.rewriting.code import Change, Edit
from fledge.exchange.rewriting.knowledge import Figure, alike
from fledge.exchange.rewriting.view import View

# What torch says of its kernels in words only.
DEFAULTS: dict[Any, dict[str, object]] = {
    F.scaled_dot_product_attention: {"attn_mask": None, "dropout_p": 0.0, "is_causal": False, "enable_gqa": False}
}


def decide(view: View) -> Iterator[Change]:
    for node in view.code.nodes:
        if edit := _statement(view, node) or _expression(view, node):
            yield (edit,)


def _statement(view: View, node: ast.AST) -> Edit | None:
    match node:
        case ast.Assert():
            return view.code.without(node)
        case ast.If() if view.truth(node.test) is not None:
            return _chosen_branch(view, node)
        case ast.FunctionDef():
            end = itertools.dropwhile(lambda each: not isinstance(each, ast.Return), node.body)
            unreachable = next(itertools.islice(end, 1, None), None)
            return view.code.without(unreachable) if unreachable else None
    return None


def _chosen_branch(view: View, node: ast.If) -> Edit:
    whole = view.code.without(node)
    kept = node.body if view.truth(node.test) else node.orelse
    if not kept:
        return whole
    start, end = view.code.rows(kept[0])[0], view.code.rows(kept[-1])[1]
    lines = [line.removeprefix(b"    ") for line in view.code.lines[start:end]]
    return Edit(view.code.starts[node.lineno - 1], whole.end, b"".join(lines).decode())


def _expression(view: View, node: ast.AST) -> Edit | None:
    match node:
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            truth, same = view.truth(test), _literal(view, body)
            if truth is None and (same is None or same != _literal(view, otherwise)):
                return None
            return view.code.instead(node, otherwise if truth is False else body)
        case ast.BoolOp():
            return _shorter_chain(view, node)
        case ast.BinOp(left=ast.Constant(value=0), op=ast.Add(), right=rest):
            return view.code.instead(node, rest)
        case ast.Slice(lower=ast.Constant(value=0) as zero, upper=ast.expr() as end):
            colon = ":" if isinstance(end, ast.Name | ast.Constant) else ": "
            return Edit(view.code.span(zero)[0], view.code.span(end)[0], colon)
        case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()) | ast.Subscript(ctx=ast.Load()):
            text = _name_of_ours(view, node) or _literal(view, node)
            return view.code.instead(node, text=text) if text and text != view.code.of(node) else None
        case ast.Compare() | ast.UnaryOp() | ast.Call():
            text = _literal(view, node)
            return view.code.instead(node, text=text) if text else None
    return None


def _shorter_chain(view: View, node: ast.BoolOp) -> Edit | None:
    """`a and b`, `a or b`: without the parts that change nothing, and those that are never asked."""
    decides = isinstance(node.op, ast.Or)  # a part of this truth ends the chain; one of the other is passed over
    kept: list[ast.expr] = []
    for part in node.values:
        truth = view.truth(part)
        if truth is None or truth is decides or part is node.values[-1]:
            kept.append(part)
        if truth is decides:
            break
    if len(kept) > 1 and view.truth(kept[-1]) is (not decides):
        kept.pop()
    return view.code.instead(node, *kept, joint=node.op) if len(kept) < len(node.values) else None


def _literal(view: View, node: ast.AST) -> str | None:
    """Yes, no, nothing or a word, as it is written; and the zero of a part that this model has not."""
    if isinstance(node, ast.Constant):
        return view.code.of(node)
    values = view.values(node)
    if not alike(values):
        return None
    value = values[0]
    if isinstance(value, str):
        return json.dumps(value)
    absent = value == 0 and not isinstance(value, Figure)
    return repr(value) if value is None or isinstance(value, bool) or absent else None


def _name_of_ours(view: View, node: ast.AST) -> str | None:
    """The function or class that is meant."""
    values = view.values(node)
    name = getattr(values[0], "__name__", "") if alike(values) else ""
    known = name in view.classes or name in view.functions
    return name if known and values and view.knowledge.names[name] is values[0] else None


def skip(view: View) -> Iterator[Change]:
    for node in view.code.nodes:
        match node:
            case ast.Call(args=[passed, *_]) if _passes_on(view, node):
                yield (view.code.instead(node, passed),)
            case ast.Call(args=[*passed]) if _passes_all_on(view, node):
                yield (view.code.instead(node, *passed, joint=ast.Tuple(elts=[])),)
            case ast.Assign(targets=[target], value=value) if view.code.of(target) == view.code.of(value):
                yield (view.code.without(node),)


def _passes_on(view: View, call: ast.Call) -> bool:
    values = view.values(call.func)
    if values == [F.dropout]:
        return view.values(call.args[1]) == [0.0]
    return values is not None and all(_is_identity(view, value) for value in values)


def _passes_all_on(view: View, call: ast.Call) -> bool:
    methods = view.values(call.func) or [None]
    return all(isinstance(each, MethodType) and _gives_back(view, each.__self__, each.__name__) for each in methods)


def _is_identity(view: View, value: object) -> bool:
    """A module whose answer is its first input."""
    if isinstance(value, nn.Identity) or (isinstance(value, nn.Dropout) and value.p == 0):
        return True
    return isinstance(value, nn.Module) and _gives_back(view, value, "forward", 1)


def _gives_back(view: View, owner: object, method: str, count: int | None = None) -> bool:
    """Whether a method does nothing but give back its arguments, or the first of them."""
    definition = view.classes.get(type(owner).__name__)
    for member in definition.body if definition else ():
        if isinstance(member, ast.FunctionDef) and member.name == method:
            match member.body:
                case [ast.Return(ast.expr() as answer)] | [ast.Expr(), ast.Return(ast.expr() as answer)]:
                    given = [parameter.arg for parameter in member.args.args[1:]]
                    return view.code.of(answer) == ", ".join(given[:count])
    return False


def leave_defaults_out(view: View) -> Iterator[Change]:
    for call in view.every(ast.Call):
        spans = [view.code.span(item) for item in (*call.args, *call.keywords)]
        for place, keyword in enumerate(call.keywords, start=len(call.args)):
            if isinstance(keyword.value, ast.Constant) and _is_default(view, call, keyword.arg, keyword.value.value):
                yield (view.code.without_item(spans, place),)


def _is_default(view: View, call: ast.Call, name: str | None, value: object) -> bool:
    functions = view.values(call.func)
    if not functions or len(functions) > 1 or name is None:
        return False
    if functions[0] in DEFAULTS:
        return DEFAULTS[functions[0]].get(name, ...) == value
    try:
        return inspect.signature(functions[0]).parameters[name].default is value
    except (ValueError, TypeError, KeyError):  # written in C, or no function
        return False
