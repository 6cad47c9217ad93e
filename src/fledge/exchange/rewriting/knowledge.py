"""What is known of an expression before it runs, where one model is meant.

Known are constants, the settings, and every object inside a model that was built from them: `config.tied` is True,
`self.query_norm` in `Attention` is a list of all those there are. Only what never changes counts as known. What is not
known is None. Runs nothing: names, attributes, tables, comparisons and their like are looked up.
"""

import ast
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any, TypeGuard

from torch import nn

from fledge.exchange.rewriting.code import bindings

Values = list[Any] | None  # everything that an expression can be; None: nobody knows
Scope = dict[str, Values]  # the names of a function

BLANK = frozenset(vars(nn.Module()))  # what every module has, `training` among it: it changes


class Knowledge:
    def __init__(self, names: Mapping[str, object], examples: Iterable[object], facts: Mapping[str, bool]) -> None:
        """`names`: what each name at the top of the source is. `examples`: all objects there are. `facts`: comparisons
        that no object tells of."""
        self.names = {"isinstance": isinstance, **names}
        self.facts = facts
        self.examples: dict[str, list[Any]] = {}  # class → its objects
        for example in examples:
            for kind in type(example).__mro__:
                if is_ours(kind):
                    self.examples.setdefault(kind.__name__, []).append(example)

    def values(self, node: ast.AST | None, scope: Scope) -> Values:
        match node:
            case ast.Constant(value=value):
                return [value]
            case ast.Name(id=name):
                return scope[name] if name in scope else [self.names[name]] if name in self.names else None
            case ast.Attribute(value=base, attr=name):
                return attributes(self.values(base, scope), name)
            case ast.Subscript(value=table, slice=key):
                return self._looked_up(table, key, scope)
            case ast.Call(func=function, args=arguments):
                return self._called(self.values(function, scope), arguments, scope)
            case ast.IfExp(test=test, body=body, orelse=otherwise):
                truth = self.truth(test, scope)
                return None if truth is None else self.values(body if truth else otherwise, scope)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                truth = self.truth(operand, scope)
                return None if truth is None else [not truth]
            case ast.BoolOp(op=ast.And(), values=parts) if False in (self.truth(part, scope) for part in parts):
                return [False]
            case ast.Compare() if (fact := self.facts.get(ast.unparse(node))) is not None:
                return [fact]
            case ast.Tuple(elts=parts):
                values = [self.values(part, scope) for part in parts]
                return [tuple(value[0] for value in values if value)] if all(map(alike, values)) else None
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                return compared(self.values(left, scope), operator, self.values(right, scope))
        return None

    def truth(self, node: ast.AST, scope: Scope) -> bool | None:
        values = self.values(node, scope)
        truths = {bool(value) for value in values or ()}
        return truths.pop() if len(truths) == 1 else None

    def _looked_up(self, table: ast.AST, key: ast.AST, scope: Scope) -> Values:
        keys = self.values(key, scope)
        if isinstance(table, ast.Dict) and alike(keys):
            for each, value in zip(table.keys, table.values, strict=True):
                if self.values(each, scope) == keys[:1]:
                    return self.values(value, scope)
        tables = self.values(table, scope)
        return [tables[0][keys[0]]] if alike(keys) and tables and isinstance(tables[0], dict) else None

    def _called(self, functions: Values, arguments: list[ast.expr], scope: Scope) -> Values:
        """A class gives one of its objects; `isinstance` is answered."""
        (function,) = functions if functions and len(functions) == 1 else (None,)
        if function is isinstance:
            found, kinds = (self.values(argument, scope) for argument in arguments)
            return [isinstance(each, kinds[0]) for each in found] if found and kinds else None
        return self.examples.get(function.__name__) if isinstance(function, type) else None

    def scopes(self, tree: ast.Module) -> dict[ast.AST, Scope]:
        """For each node the names around it."""
        found: dict[ast.AST, Scope] = {}

        def visit(node: ast.AST, scope: Scope, owner: str) -> None:
            found[node] = scope
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                scope = {**scope, **self._names_of(node, scope, owner)}
            owner = node.name if isinstance(node, ast.ClassDef) else owner
            for child in ast.iter_child_nodes(node):
                visit(child, scope, owner)

        visit(tree, {}, "")
        return found

    def _names_of(self, function: ast.FunctionDef | ast.Lambda, around: Scope, owner: str) -> Scope:
        """Parameters by their annotation, and what is bound once, by what it is bound to."""
        names: Scope = {}
        for parameter in function.args.posonlyargs + function.args.args + function.args.kwonlyargs:
            kind = owner if parameter.arg == "self" else getattr(parameter.annotation, "id", "")
            names[parameter.arg] = self.examples.get(kind)
        bound = list(bindings(function))
        names |= {target: None for target, _ in bound if target not in names}
        for target, value in bound:
            if [name for name, _ in bound].count(target) == 1:
                names[target] = self._bound(value, {**around, **names})
        return names

    def _bound(self, value: ast.AST | None, scope: Scope) -> Values:
        if isinstance(value, ast.For):
            lists = self.values(value.iter, scope)
            modules = lists and all(isinstance(each, nn.ModuleList) for each in lists)
            return [module for each in lists for module in each] if modules and lists else None
        return self.values(value, scope)


def attributes(values: Values, name: str) -> Values:
    return [getattr(value, name) for value in values] if values and all(has(value, name) for value in values) else None


def has(value: object, name: str) -> bool:
    """Whether this is there for good."""
    if isinstance(value, nn.Module):
        held = {*vars(value), *value._modules, *value._parameters, *value._buffers}
        return name in held - BLANK
    return (isinstance(value, ModuleType) or is_ours(type(value))) and hasattr(value, name)


def is_ours(kind: type) -> bool:
    return kind.__module__.startswith("fledge.")


def alike(values: Values) -> TypeGuard[list[Any]]:
    """All the same choice: one word, one function, yes, no, nothing."""
    kinds = (str, bool, type(None), int, float, FunctionType, type)
    return bool(values) and all(
        isinstance(v, kinds) and type(v) is type(values[0]) and v == values[0] for v in values or ()
    )


def compared(left: Values, operator: ast.cmpop, right: Values) -> Values:
    if left and alike(right) and right[0] is None and isinstance(operator, ast.Is | ast.IsNot):
        return [(value is None) is isinstance(operator, ast.Is) for value in left]
    if left and right and isinstance(operator, ast.In):
        return [value in right[0] for value in left]
    if alike(left) and alike(right) and isinstance(operator, ast.Eq | ast.NotEq):
        return [(left[0] == right[0]) is isinstance(operator, ast.Eq)]
    return None
