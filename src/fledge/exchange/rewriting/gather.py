"""A program and every definition of fledge that it needs, module by module, in the order in which one reads.

Follows names: from the program to what it uses, to what that uses. What comes from other packages stays an import.
"""

import ast
import importlib
import inspect
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import ModuleType

from fledge.exchange.rewriting.code import Code
from fledge.exchange.rewriting.scopes import defined, taken

MARK = "# § "  # and a name: here begins a section

# Where a module stands. One that is not named here stands before the first that uses it.
ORDER = (
    "fledge.model.norms",
    "fledge.model.positions",
    "fledge.model.attention",
    "fledge.model.mlp",
    "fledge.model.block",
    "fledge.model.head",
    "fledge.model.gpt",
    "fledge.model.init",
    "fledge.losses.cross_entropy",
    "fledge.optim.groups",
    "fledge.optim.schedule",
    "fledge.exchange.standalone",
)


@dataclass(frozen=True)
class Import:
    """`from module import name as alias`; without a name, `import module as alias`."""

    module: str
    name: str
    alias: str


class Source:
    """A module, and which of its definitions are wanted."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.name = module, module.__name__
        self.code = Code(inspect.getsource(module))
        self.definitions = {name: node for node in self.code.tree.body for name in defined(node)}
        self.imports: dict[str, Import] = {}
        for each in imports_of(self.code.tree):
            self.imports.setdefault(each.alias or each.name or each.module.partition(".")[0], each)
        self.wanted: set[str] = set()

    def objects(self) -> dict[str, object]:
        """What its names mean: those that are wanted, and those that come from elsewhere."""
        return {name: vars(self.module)[name] for name in self.wanted | self.imports.keys()}

    def text(self) -> str:
        """The wanted definitions; constants that stand together stay together."""
        pieces, end = [f"{MARK}{self.name}"], -1
        for node in self.code.tree.body:
            if defined(node) & self.wanted:
                start = self.code.rows(node)[0]
                pieces.append(("\n" if start == end else "\n\n\n") + self.code.whole(node).rstrip("\n"))
                end = self.code.rows(node)[1]
        return "".join(pieces)


def imports_of(tree: ast.Module) -> Iterable[Import]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, "", alias.asname or "") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (Import(node.module or "", alias.name, alias.asname or "") for alias in node.names)


def gather(program: ModuleType, root: str, leave_out: Collection[str]) -> list[Source]:
    sources: dict[str, Source] = {}
    queue = [(program.__name__, root)]
    while queue:
        module, name = queue.pop()
        if module not in sources:
            sources[module] = Source(importlib.import_module(module))
        source = sources[module]
        if name in source.wanted or name in leave_out:
            continue
        if name in source.definitions:
            source.wanted.add(name)
            queue += ((module, used) for used in taken(source.definitions[name]))
        elif (origin := source.imports.get(name)) and origin.module.startswith("fledge."):
            queue.append((origin.module, origin.name))
    order = reading_order(sources)
    return sorted(sources.values(), key=lambda source: order[source.name])


def reading_order(sources: dict[str, Source]) -> dict[str, float]:
    order: dict[str, float] = {name: place for place, name in enumerate(ORDER)}

    def place(name: str) -> float:
        if name not in order:
            users = [each.name for each in sources.values() if any(i.module == name for i in each.imports.values())]
            order[name] = min(map(place, users), default=-1.0) - 0.5
        return order[name]

    return {name: place(name) for name in sources}
