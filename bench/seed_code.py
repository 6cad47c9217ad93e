"""Runs parts of other people's programs: a tool of seeds.py.

Taken from a checkout of each: the class of the model, the lines that make the optimizer, the function of the learning
rate, and the training loop. What these lines need besides (progress bars, loggers, devices, text) is replaced by
stand-ins, and the loop gets the batches that it is given. Nothing of theirs is kept here.
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn

Rows = tuple[Tensor, Tensor]
V, T, C, H, L = 211, 32, 64, 4, 2  # vocabulary, context, width, heads and blocks of the reduced models
SIZES = {"vocab_size": V, "context": T, "n_embd": C, "n_head": H, "n_layer": L}


class Anything(ModuleType):
    """A stand-in for a package: whatever is taken from it accepts everything and does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Bar:
    """Of tqdm."""

    def __init__(self, rows: Any, **_: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def set_postfix(self, *_: Any, **__: Any) -> None: ...


def load(source: str, *without: str) -> SimpleNamespace:
    """A module from its text, with stand-ins for these packages."""
    stand_ins = {name: Anything(name) for name in without if name not in sys.modules}
    sys.modules.update(stand_ins)
    module = ModuleType("theirs")
    sys.modules["theirs"] = module  # dataclasses look their module up
    try:
        exec(compile(source, "theirs", "exec"), module.__dict__)  # noqa: S102 — of a checkout that the user named
    finally:
        for name in [*stand_ins, "theirs"]:
            del sys.modules[name]
    return SimpleNamespace(**{k: v for k, v in module.__dict__.items() if not k.startswith("__")})


def run_parts(source: str, names: tuple[str, ...], known: dict[str, Any], loop: type[ast.stmt] | None = None) -> None:
    """Execute the functions and assignments with these names, and the last loop of this kind, among `known` values."""
    parts = []
    for node in ast.parse(source).body:
        named = [node.name] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.Assign):
            named = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if set(named) & set(names):
            parts.append(node)
    loops = [node for node in ast.parse(source).body if loop and isinstance(node, loop)]
    code = ast.Module([*parts, *loops[-1:]], type_ignores=[])
    exec(compile(ast.fix_missing_locations(code), "theirs", "exec"), known)  # noqa: S102


@dataclass
class Losses:
    """Of every micro-batch, as the loop computes them."""

    found: list[float] = field(default_factory=list)

    def of_output(self, _module: Any, _inputs: Any, output: Any) -> None:
        loss = output[1] if isinstance(output, tuple) else output
        self.found.append(float(loss.detach()))

    def per_update(self, micro_batches: int) -> list[float]:
        return np.array(self.found).reshape(-1, micro_batches).mean(1).tolist()


@dataclass
class Program:
    name: str
    preset: str
    table: str  # of the names of its weights, in exchange/torch_checkpoints
    overrides: dict[str, dict[str, Any]]  # what the reduced run sets besides the sizes of the model
    model: nn.Module
    train: Callable[[nn.Module, list[list[Rows]]], list[float]]  # updates → loss of each
    parameters: int  # of the model in full size
    first_update: int = 0
    note: str = ""


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
