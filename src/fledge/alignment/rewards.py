"""What rewards an answer: the rule of a task, a function in a user's FILE.py, a reward model; several with weights.

    def reward(prompt, answer, target):         # FILE.py; it may leave out parameters: def reward(answer)
        return 1 - abs(len(answer) - 80) / 80

A file is a program. `--reward FILE.py` permits its content, whose hash is noted in the user's cache on this machine
(trusted-rewards/). The run keeps a copy, with its hash in run.json. When the run is opened again, the copy is executed
only if it is unchanged and its content is permitted: so never that of a run that came from another machine or another
user. `--trust-reward` permits it.
"""

import hashlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from fledge.alignment.setup import Reward
from fledge.alignment.tasks.registry import find_task, is_task
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.errors import UserError, nearest
from fledge.core.files import cache_dir, nearest_file, write_atomic
from fledge.datasets.examples import Example

FOLDER = "rewards"  # of a run: the copies of its reward files
PARAMETERS = ("prompt", "answer", "target")
EXAMPLE = "write: def reward(prompt, answer, target): return float(answer == target)"


@dataclass(frozen=True)
class RewardFile:
    name: str  # as it was given: rewards/short.py
    content: bytes
    path: Path  # of the file, or of its copy in the run

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def split_weights(specs: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """["short.py=0.5", "addition"] → their names, and their weights (1 where there is none)."""
    names, weights = list[str](), list[float]()
    for spec in specs:
        name, equals, number = spec.rpartition("=")
        try:
            weight = float(number) if equals else 1.0
            if not math.isfinite(weight):
                raise ValueError
        except ValueError:
            raise UserError(f"'{number}' is not the weight of a reward", f"write a number: {name}=0.5") from None
        names.append(name if equals else spec)
        weights.append(weight)
    return tuple(names), tuple(weights)


def is_file(name: str) -> bool:
    return name.endswith(".py")


def read_reward_files(names: Sequence[str]) -> list[RewardFile]:
    """The files among the rewards of a new run, which the user permits by naming them."""
    found = []
    for name in filter(is_file, names):
        path = Path(name).expanduser()
        try:
            found.append(RewardFile(name, path.read_bytes(), path))
        except FileNotFoundError:
            raise UserError(f"no such file: '{name}'", nearest_file(path) or EXAMPLE) from None
        except OSError as error:
            raise UserError(f"'{name}' cannot be read: {error.strerror}", "give a Python file") from None
    return found


def store_reward_files(files: Sequence[RewardFile], run: Path) -> None:
    """Copy them into the folder of a new run."""
    for number, file in enumerate(files):
        write_atomic(_copy(run, number, file.name), file.content)


def reward_metadata(files: Sequence[RewardFile]) -> dict[str, str]:
    """The entry of run.json: name → SHA-256."""
    return {file.name: file.sha256 for file in files}


def stored_reward_files(
    run: Path, recorded: Mapping[str, str], *, trust: bool = False, world: World = SINGLE_PROCESS
) -> list[RewardFile]:
    """The copies in the folder of a run. recorded: `reward_metadata` of its run.json. trust: --trust-reward."""
    files = []
    for number, (name, sha256) in enumerate(recorded.items()):
        path = _copy(run, number, name)
        try:
            file = RewardFile(name, path.read_bytes(), path)
        except OSError as error:
            raise UserError(
                f"the reward of this run cannot be read: '{path}'", error.strerror or "restore it"
            ) from None
        if file.sha256 != sha256:
            raise UserError(
                f"the reward of this run has changed: '{path}' is not what it was trained with",
                "restore the file, or start a new run: fledge align",
            )
        files.append(file)
    untrusted = [file for file in files if not (trust or is_trusted(file))]
    if world.broadcast_from_main(lambda: "no" if untrusted else ""):
        path = untrusted[0].path if untrusted else run / FOLDER
        raise UserError(
            f"the reward of this run is a program that you have not run on this machine: '{path}'",
            "read it; then add --trust-reward to execute it",
        )
    return files


def _copy(run: Path, number: int, name: str) -> Path:
    return run / FOLDER / f"{number}-{Path(name).name}"


def permit(files: Sequence[RewardFile]) -> None:
    """Note that the user of this machine executes these programs."""
    for file in files:
        write_atomic(_permission(file), f"{file.path.absolute()}\n")


def is_trusted(file: RewardFile) -> bool:
    return _permission(file).is_file()


def _permission(file: RewardFile) -> Path:
    return cache_dir() / "trusted-rewards" / file.sha256


def open_reward(
    names: Sequence[str], weights: Sequence[float], files: Sequence[RewardFile], open_run: Callable[[str], Reward]
) -> Reward:
    """The sum of the rewards, each times its weight. open_run: the name of a reward model's run → its scores.

    files: those among the names; their content is permitted and executed.
    """
    permit(files)
    by_name = {file.name: file for file in files}
    parts: list[Reward] = []
    for name in names:
        if name in by_name:
            parts.append(FunctionReward(by_name[name]))
        else:
            parts.append(find_task(name).reward if is_task(name) else open_run(name))
    if len(weights) not in (0, len(names)):
        raise UserError(f"{len(names)} rewards cannot have {len(weights)} weights", "write --reward NAME=WEIGHT")
    factors = list(weights) or [1.0] * len(names)
    return parts[0] if factors == [1.0] else WeightedReward(parts, factors)


def rule_of(examples: Sequence[Example]) -> Reward:
    """The reward where none is named: the rule of the built-in task that an example comes from."""
    tasks = {example.messages[-1]["content"]: example.fields.get("task") for example in examples}
    names = set(tasks.values())
    if None in names or not names:
        hint = "name one: --reward FILE.py, --reward TASK (fledge align tasks), or --reward RUN of a reward model"
        raise UserError("nothing says how good an answer to this data is", hint)
    rules = {name: find_task(name).reward for name in sorted(filter(None, names))}
    one = next(iter(rules.values()))

    def reward(prompt: str, answer: str, target: str | None) -> float:
        return rules.get(tasks.get(prompt) or "", one)(prompt, answer, target)

    return one if len(rules) == 1 else reward


@dataclass(frozen=True)
class WeightedReward:
    parts: Sequence[Reward]
    weights: Sequence[float]

    def __call__(self, prompt: str, answer: str, target: str | None) -> float:
        return sum(w * part(prompt, answer, target) for w, part in zip(self.weights, self.parts, strict=True))


class FunctionReward:
    """The function `reward` of a file."""

    def __init__(self, file: RewardFile) -> None:
        self.file, self._function = file, find_function(file)
        self._names = parameters(self._function, file)

    def __call__(self, prompt: str, answer: str, target: str | None) -> float:
        given = {"prompt": prompt, "answer": answer, "target": target}
        value = self._function(**{name: given[name] for name in self._names})
        if isinstance(value, bool) or not isinstance(value, Real):
            kind = "nothing" if value is None else f"{value!r:.60}, of type {type(value).__name__}"
            raise UserError(f"reward() in '{self.file.name}' returns {kind}", "a reward is a number: return float(…)")
        try:
            return float(value)
        except OverflowError:  # of a whole number
            return math.inf


def find_function(file: RewardFile) -> Callable[..., Any]:
    """Execute the file."""
    module = ModuleType(f"fledge_reward_{file.sha256[:16]}")
    module.__file__ = str(file.path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        source = importlib.util.decode_source(file.content)
        exec(compile(source, str(file.path), "exec"), module.__dict__)  # noqa: S102
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file.path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"line {line}: " if line else ""
        what = f"{where}{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise UserError(f"'{file.name}' cannot be executed: {what}", f"see: python {file.name}") from None
    function = getattr(module, "reward", None)
    if not callable(function):
        hint = nearest("reward", (name for name, value in vars(module).items() if callable(value))) or EXAMPLE
        raise UserError(f"'{file.name}' has no function reward", hint)
    return function


def parameters(function: Callable[..., Any], file: RewardFile) -> list[str]:
    """Which of prompt, answer and target it takes."""
    found = list[str]()
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            return list(PARAMETERS)
        if name in PARAMETERS and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found.append(name)
        elif parameter.default is parameter.empty:
            raise UserError(f"reward() in '{file.name}' has a parameter '{name}'", EXAMPLE)
    return found
