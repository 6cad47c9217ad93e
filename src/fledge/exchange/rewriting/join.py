"""Rules that put together what is apart only because there was a choice.

join_choosers    a function of which nothing is left but `return SomeClass(…)` becomes what it returns
join_bases       a base that one class alone builds upon, and that has no objects of its own, goes into that class
"""

import ast

from fledge.exchange.rewriting.code import Code, Edit
from fledge.exchange.rewriting.view import View


def join_choosers(view: View) -> list[Edit]:
    for name, function in view.functions.items():
        match function.body:
            case [ast.Return(ast.Call(func=ast.Name(id=kind)) as answer)] if kind in view.classes:
                return [_inlined(view, function, call, answer) for call in view.calls(name)]
    return []


def _inlined(view: View, function: ast.FunctionDef, call: ast.Call, answer: ast.Call) -> Edit:
    given = dict(zip([parameter.arg for parameter in function.args.args], call.args, strict=True))
    code = Code(view.code.of(answer))
    names = [node for node in code.nodes if isinstance(node, ast.Name) and node.id in given]
    edits = [Edit(*code.span(node), view.code.of(given[node.id])) for node in names]
    return view.code.instead(call, text=code.edited(edits).text)


def join_bases(view: View) -> list[Edit]:
    for definition in view.classes.values():
        match definition.bases:
            case [ast.Name(id=name)] if name in view.classes and len(view.reads(name)) == 1:
                base = view.classes[name]
                return [
                    Edit(*view.code.span(definition), _merged(view.code, base, definition)),
                    view.code.without(base),
                ]
    return []


def _merged(code: Code, base: ast.ClassDef, definition: ast.ClassDef) -> str:
    """Members in the order of the base, in the words of the class that builds upon it; then what is new."""
    own = {_name(member): code.whole(member) for member in definition.body}
    inherited = {_name(member): code.whole(member) for member in base.body}
    if "__init__" in own and "__init__" in inherited:
        own["__init__"] = _spelled_out(code, base, definition)
    members = inherited | own
    docstring = members.pop("", "")
    bases = f"({', '.join(code.of(each) for each in base.bases)})" if base.bases else ""
    return "\n".join([f"class {definition.name}{bases}:", docstring + "\n".join(members.values())]).rstrip("\n")


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
    return code.whole(ours).replace(code.whole(call), "".join(code.whole(statement) for statement in theirs.body))
