"""Rules that put together what is apart only because there was a choice.

join_answers     `name = …` and `return name` become one
join_functions   a function that only returns something, and is called once or picks a class, becomes what it returns
join_methods     the same for a method, of an object that is known
join_bases       a base that one class alone builds upon, and that has no objects of its own, goes into that class
join_layers      a class that only tells a class of torch what to be becomes that
"""

import ast
from collections.abc import Iterator
from types import MethodType

from fledge.exchange.rewriting.code import Change, Code, Edit
from fledge.exchange.rewriting.tidy import WIDTH, one_line
from fledge.exchange.rewriting.view import View


def join_answers(view: View) -> Iterator[Change]:
    for function in view.every(ast.FunctionDef):
        match function.body:
            case [*_, ast.Assign(targets=[ast.Name(id=name)]) as line, ast.Return(ast.Name(id=same)) as last]:
                if name == same:
                    start, end = view.code.span(line)[0], view.code.span(line.value)[0]
                    yield Edit(start, end, "return "), view.code.without(last)


def join_functions(view: View) -> Iterator[Change]:
    for name, function in view.functions.items():
        match function.body:
            case [ast.Return(ast.Call(func=kind) as answer)] if _is_class(view, kind):
                yield from _inlined(view, name, function, view.code.of(answer))
            case [ast.Return(ast.expr() as answer)] | [ast.Expr(), ast.Return(ast.expr() as answer)]:
                if len(view.calls(name)) == len(view.reads(name)) == 1:
                    yield from _inlined(view, name, function, view.code.of(answer))


def _is_class(view: View, node: ast.expr) -> bool:
    return all(isinstance(value, type) for value in view.values(node) or [None])


def join_layers(view: View) -> Iterator[Change]:
    for name, definition in view.classes.items():
        match definition.bases, definition.body:
            case [ast.Attribute() as base], [ast.FunctionDef(body=[ast.Expr(ast.Call() as told)]) as constructor]:
                text = f"{view.code.of(base)}({view.code.of(*told.args, *told.keywords)})"
                yield from _inlined(view, name, constructor, text)


def join_methods(view: View) -> Iterator[Change]:
    for call in view.every(ast.Call):
        methods = view.values(call.func) or [None]
        owners = {type(each.__self__).__name__ for each in methods if isinstance(each, MethodType)}
        for member in view.classes[owners.pop()].body if len(owners) == 1 and owners <= view.classes.keys() else ():
            if isinstance(member, ast.FunctionDef) and member.name == methods[0].__name__:
                match member.body:
                    case [ast.Return(ast.expr() as answer)] | [ast.Expr(), ast.Return(ast.expr() as answer)]:
                        if not view.reads("self", member):
                            yield from _placed(view, call, member, view.code.of(answer))


def _inlined(view: View, name: str, function: ast.FunctionDef, text: str) -> Iterator[Change]:
    """Each call as this text."""
    for call in view.calls(name):
        yield from _placed(view, call, function, text)


def _placed(view: View, call: ast.Call, function: ast.FunctionDef, text: str) -> Iterator[Change]:
    """A call as this text, with what is given in the places of the parameters; unless that makes a line too long."""
    code = Code(one_line(text))
    parameters = [each.arg for each in function.args.args if each.arg != "self"]
    if all(isinstance(argument, ast.Name | ast.Attribute | ast.Constant) for argument in call.args):
        given = dict(zip(parameters, call.args, strict=True))
        names = [node for node in code.nodes if isinstance(node, ast.Name) and node.id in given]
        placed = code.changed((Edit(*code.span(node), view.code.of(given[node.id])),) for node in names)
        line = view.code.lines[call.lineno - 1].decode().rstrip("\n")
        if len(line) - len(view.code.of(call)) + len(placed.text) <= WIDTH:
            yield (view.code.instead(call, text=placed.text),)


def join_bases(view: View) -> Iterator[Change]:
    for definition in view.classes.values():
        match definition.bases:
            case [ast.Name(id=name)] if name in view.classes and len(view.reads(name)) == 1:
                merged = _merged(view.code, view.classes[name], definition)
                yield Edit(*view.code.span(definition), merged), view.code.without(view.classes[name])


def _merged(code: Code, base: ast.ClassDef, definition: ast.ClassDef) -> str:
    """Members in the order of the base, in the words of the class that builds upon it; then what is new."""
    own = {_name(member): code.whole(member) for member in definition.body}
    inherited = {_name(member): code.whole(member) for member in base.body}
    if "__init__" in own and "__init__" in inherited:
        own["__init__"] = _spelled_out(code, base, definition)
    members = inherited | own
    docstring = members.pop("", "")
    bases = f"({', '.join(map(code.of, base.bases))})" if base.bases else ""
    body = "\n".join(members.values())
    return f"class {definition.name}{bases}:\n{docstring}{body}".rstrip("\n")


def _name(member: ast.stmt) -> str:
    """The docstring has none."""
    match member:
        case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def _spelled_out(code: Code, base: ast.ClassDef, definition: ast.ClassDef) -> str:
    """The constructor, with that of the base in the place of `super().__init__(…)`."""
    theirs, ours = (next(m for m in each.body if isinstance(m, ast.FunctionDef)) for each in (base, definition))
    call = next(statement for statement in ours.body if code.of(statement).startswith("super().__init__("))
    return code.whole(ours).replace(code.whole(call), code.whole(*theirs.body))
