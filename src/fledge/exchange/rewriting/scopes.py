"""Which names a piece of source gives a meaning, and which it takes from around it."""

import ast
from collections.abc import Iterator


def defined(statement: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives a meaning; imports are counted elsewhere."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=[target]):
            return {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
    return set()


def taken(node: ast.AST, own: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names that it reads and does not bind."""
    if isinstance(node, ast.FunctionDef | ast.Lambda):
        parameters = {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}
        own |= parameters | {name for name, _ in bindings(node)}
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in own:
        yield node.id
    for child in ast.iter_child_nodes(node):
        yield from taken(child, own)


def bindings(function: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """Each name that a function binds besides its parameters, and to what: a value, or a loop over this."""
    simple: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                simple |= dict(zip(targets, values, strict=True))
            case ast.Assign(targets=[target], value=value):
                simple[target] = value
            case ast.For(target=ast.Tuple(elts=targets), iter=ast.Call(func=ast.Name(id="zip"), args=lists)):
                simple |= {target: ast.Starred(each) for target, each in zip(targets, lists, strict=True)}
            case ast.For(target=target, iter=several):
                simple[target] = ast.Starred(several)
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, simple.get(node)
            case ast.alias(name=name, asname=other):
                yield other or name, None
            case ast.FunctionDef(name=name) if node is not function:
                yield name, None
