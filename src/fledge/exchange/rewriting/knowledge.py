"""What is known of an expression before it runs, where one model is meant.

Known are constants, the settings, and every object within a model that was built from them: `config.tied` is True, and
`self.query_norm` in `Attention` is each of those that there are. Only what never changes counts as known; of all else
the answer is None. Runs nothing: names, attributes, tables and comparisons are looked up.
"""

import ast
import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any, TypeGuard

from torch import nn

from fledge.exchange.rewriting.code import Code
from fledge.exchange.rewriting.scopes import bindings

Values = list[Any] | None  # everything that an expression can be; None: nobody knows
Scope = dict[str, Values]  # the names of a function

ORDERS = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
CHOICES = (str, bool, type(None), int, float, FunctionType, type)
CHANGING = frozenset(vars(nn.Module()))  # what every module has, `training` among it


class Figure(float):
    """A number from the settings of training, where zero is a number like others and no part that is missing."""


class Knowledge:
    def __init__(self, names: Mapping[str, object], examples: Iterable[object], facts: Mapping[str, bool]) -> None:
        """`names`: what the names at the top of the source mean. `examples`: all objects that there are. `facts`:
        comparisons that no object tells of."""
        self.names = {"isinstance": isinstance, **names}
        self.facts = facts
        self.examples: dict[str, list[Any]] = {}  # class → its objects
        for example in examples:
            for kind in filter(is_ours, type(example).__mro__):
                self.examples.setdefault(kind.__name__, []).append(example)

    def values(self, node: ast.AST, scope: Scope) -> Values:
        match node:
            case ast.Constant(value=value):
                return [value]
            case ast.Name(id=name):
                return scope[name] if name in scope else [self.names[name]] if name in self.names else None
            case ast.Tuple(elts=parts):
                known = [self.values(part, scope) for part in parts]
                return [tuple(each[0] for each in known if alike(each))] if all(map(alike, known)) else None
            case ast.Attribute(value=base, attr=name):
                return attributes(self.values(base, scope), name)
            case ast.Subscript(value=table, slice=key):
                return self._looked_up(table, key, scope)
            case ast.Starred(value=lists):
                modules = self.values(lists, scope) or [None]
                return [each for held in modules for each in held] if all_are(modules, nn.ModuleList) else None
            case ast.Call(func=function, args=arguments):
                return self._called(self.values(function, scope), arguments, scope)
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                truth = self.truth(test, scope)
                return None if truth is None else self.values(body if truth else otherwise, scope)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                bases, powers = self.values(left, scope), self.values(right, scope)
                return [bases[0] ** powers[0]] if is_number(bases) and is_number(powers) else None
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                truth = self.truth(operand, scope)
                return None if truth is None else [not truth]
            case ast.BoolOp(op=ast.And(), values=parts) if False in [self.truth(part, scope) for part in parts]:
                return [False]
            case ast.Compare() if (fact := self.facts.get(ast.unparse(node))) is not None:
                return [fact]
            case ast.Compare(left=left, ops=[order], comparators=[right]):
                return compared(self.values(left, scope), order, self.values(right, scope))
        return None

    def truth(self, node: ast.AST, scope: Scope) -> bool | None:
        truths = {bool(value) for value in self.values(node, scope) or ()}
        return truths.pop() if len(truths) == 1 else None

    def _looked_up(self, table: ast.AST, key: ast.AST, scope: Scope) -> Values:
        keys, tables = self.values(key, scope), self.values(table, scope)
        if not alike(keys):
            return None
        if isinstance(table, ast.Dict):  # written on the spot
            known = zip(table.keys, table.values, strict=True)
            return next((self.values(v, scope) for k, v in known if k and self.values(k, scope) == keys[:1]), None)
        return [tables[0][keys[0]]] if tables and isinstance(tables[0], dict) and keys[0] in tables[0] else None

    def _called(self, functions: Values, arguments: list[ast.expr], scope: Scope) -> Values:
        """A class gives one of its objects; `isinstance` is answered."""
        if functions == [isinstance]:
            objects, kinds = (self.values(argument, scope) for argument in arguments)
            return [isinstance(each, kinds[0]) for each in objects] if objects and kinds else None
        return self.examples.get(functions[0].__name__) if functions and isinstance(functions[0], type) else None

    def scopes(self, code: Code) -> dict[ast.AST, Scope]:
        """For each node the names of the functions around it."""
        around: dict[ast.AST, Scope] = {code.tree: {}}
        within: dict[ast.AST, Scope] = {code.tree: {}}
        for node in code.nodes[1:]:
            scope = around[node] = within[node] = within[code.parents[node]]
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                owner = getattr(code.parents[node], "name", "")
                within[node] = scope | self._names_of(node, scope, owner)
        return around

    def _names_of(self, function: ast.FunctionDef | ast.Lambda, around: Scope, owner: str) -> Scope:
        """Parameters by what they are said to be, and what is bound once, by what it is bound to."""
        names: Scope = {}
        bound = list(bindings(function))
        times = Counter(name for name, _ in bound)
        for parameter in (each for each in ast.walk(function.args) if isinstance(each, ast.arg)):
            kind = owner if parameter.arg == "self" else getattr(parameter.annotation, "id", "")
            names[parameter.arg] = None if times[parameter.arg] else self.examples.get(kind)
            times[parameter.arg] += 1
        names |= {name: None for name, _ in bound}
        for name, value in bound:
            if value and times[name] == 1:
                names[name] = self.values(value, {**around, **names})
        return names


def is_ours(kind: type) -> bool:
    return kind.__module__.startswith("fledge.")


def is_of_the_model(kind: type) -> bool:
    return kind.__module__.startswith("fledge.model.")


def all_are(values: list[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def attributes(values: Values, name: str) -> Values:
    if not values or not all(has(value, name) for value in values):
        return None
    found = [getattr(value, name) for value in values]
    trains = not any(isinstance(value, ModuleType) or is_of_the_model(type(value)) for value in values)
    return [Figure(each) if trains and type(each) in (int, float) else each for each in found]


def has(value: object, name: str) -> bool:
    """Whether this is there for good."""
    if isinstance(value, nn.Module):
        return name in {*vars(value), *value._modules, *value._parameters, *value._buffers} - CHANGING
    return (isinstance(value, ModuleType) or is_ours(type(value))) and hasattr(value, name)


def alike(values: Values) -> TypeGuard[list[Any]]:
    """All the same choice: a word, a number, a function, a class, yes, no or nothing."""
    if not values or not isinstance(values[0], CHOICES):
        return False
    return all(type(value) is type(values[0]) and value == values[0] for value in values)


def is_number(values: Values) -> TypeGuard[list[Any]]:
    return alike(values) and isinstance(values[0], int | float)


def compared(left: Values, order: ast.cmpop, right: Values) -> Values:
    if not left or not right:
        return None
    match order:
        case ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE() if is_number(left) and is_number(right):
            return [ORDERS[type(order)](left[0], right[0])]
        case ast.In() if isinstance(right[0], tuple):
            return [value in right[0] for value in left]
        case ast.Is() | ast.IsNot() if right == [None]:
            return [(value is None) is isinstance(order, ast.Is) for value in left]
        case ast.Eq() | ast.NotEq() if alike(left) and alike(right):
            return [(left[0] == right[0]) is isinstance(order, ast.Eq)]
    return None
