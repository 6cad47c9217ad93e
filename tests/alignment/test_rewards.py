"""Rewards: tasks, files, weights; a file is copied, hashed, and never executed unasked when it came from elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from fledge.alignment import rewards
from fledge.alignment.rewards import (
    RewardFile,
    open_reward,
    read_reward_files,
    reward_metadata,
    rule_of,
    split_weights,
    store_reward_files,
    stored_reward_files,
)
from fledge.alignment.scoring import score
from fledge.alignment.setup import Reward
from fledge.alignment.tasks.registry import find_task
from fledge.core.errors import UserError
from fledge.datasets.examples import Example

SHORT = "def reward(prompt, answer, target):\n    return 1 / (1 + len(answer))\n"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(rewards, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def no_run(name: str) -> Reward:
    raise UserError(f"no run '{name}'", "see: fledge runs")


def write(folder: Path, content: str, name: str = "short.py") -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content, encoding="utf-8")
    return str(path)


def open_one(name: str) -> Reward:
    return open_reward([name], [], read_reward_files([name]), no_run)


def body(line: str) -> str:
    return f"import math\ndef reward(answer):\n    {line}\n"


def test_weights_of_rewards() -> None:
    assert split_weights(["short.py=0.5", "addition"]) == (("short.py", "addition"), (0.5, 1.0))
    with pytest.raises(UserError, match="'lots' is not the weight of a reward"):
        split_weights(["short.py=lots"])
    with pytest.raises(UserError, match="'nan' is not the weight of a reward"):
        split_weights(["short.py=nan"])


def test_rewards_add_up_with_their_weights(tmp_path: Path) -> None:
    name = write(tmp_path, SHORT)
    reward = open_reward([name, "addition", "taste"], [3, 1, 0.5], read_reward_files([name]), lambda _: lambda *_: 10)
    assert reward("1 0 + 1 0 =", "0 2", "0 2") == pytest.approx(3 / 4 + 1 + 5)
    with pytest.raises(UserError, match="2 rewards cannot have 1 weights"):
        open_reward(["addition", "spelling"], [1], [], no_run)
    with pytest.raises(UserError, match="no run 'additon'"):
        open_reward(["additon"], [], [], no_run)


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("prompt, answer, target", "(len(prompt), len(answer), len(target))"),
        ("answer", "(1, len(answer), 3)"),
        ("target, *, answer, scale=1", "(1, len(answer) * scale, len(target))"),
        ("**given", "tuple(map(len, given.values()))"),
    ],
)
def test_parameters_are_passed_by_name(tmp_path: Path, signature: str, value: str) -> None:
    reward = open_one(write(tmp_path, f"def reward({signature}):\n    return float({value} == (1, 2, 3))\n"))
    assert reward("p", "an", "tar") == 1


def test_file_may_use_dataclasses_and_numpy(tmp_path: Path) -> None:
    code = """
        from __future__ import annotations
        from dataclasses import dataclass
        import numpy as np
        @dataclass
        class Rule:
            word: str
        def reward(answer):
            return np.float32(Rule("tea").word in answer)
    """
    reward = open_one(write(tmp_path, "\n".join(line[8:] for line in code.splitlines())))
    assert reward("", "tea", None) == 1.0
    assert type(reward("", "tea", None)) is float


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("def reward(answer) return 1", "line 1: SyntaxError", "see: python"),
        ("\n1 / 0\n", "line 2: ZeroDivisionError: division by zero", "see: python"),
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'", "see: python"),
        ("import sys\nsys.exit(3)", "line 2: SystemExit: 3", "see: python"),
        ("x = 'a\0b'", "cannot be executed", "see: python"),
        ("def rewards(answer):\n    return 1.0", "has no function reward", "did you mean 'rewards'?"),
        ("reward = 3", "has no function reward", "write: def reward"),
        ("def reward(text):\n    return 1.0", "has a parameter 'text'", "write: def reward"),
        ("def reward(answer, /):\n    return 1.0", "has a parameter 'answer'", "write: def reward"),
    ],
)
def test_file_that_is_no_reward(tmp_path: Path, content: str, message: str, hint: str) -> None:
    with pytest.raises(UserError, match=message) as found:
        open_one(write(tmp_path, content))
    assert hint in found.value.hint
    assert "short.py" in found.value.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("return None", "returns nothing"),
        ("pass", "returns nothing"),
        ("return True", "returns True, of type bool"),
        ("return '0.5'", "returns '0.5', of type str"),
        ("return [1.0]", "of type list"),
        ("return math.nan", "the reward of an answer is nan"),
        ("return 10**400", "the reward of an answer is inf"),
        ("return 1e300", "the reward of an answer is 1e.300, too large"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("return -math.inf", "the reward of an answer is -inf"),
        ("return answer.grade", "failed in .*short.py, line 3: AttributeError"),
        ("return int(answer)", "failed in .*short.py, line 3: ValueError"),
    ],
)
def test_what_is_no_reward_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(open_one(write(tmp_path, body(line))), "Hello?", "Hi.", None)


def test_missing_file_names_a_similar_one(tmp_path: Path) -> None:
    write(tmp_path, SHORT)
    with pytest.raises(UserError, match=r"no such file: '.*shrt.py'") as found:
        read_reward_files([str(tmp_path / "shrt.py")])
    assert "short.py" in found.value.hint
    (folder := tmp_path / "folder.py").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_reward_files([str(folder)])


def test_rule_of_each_task() -> None:
    addition, spelling = (find_task(name).examples(0, 20, "train") for name in ("addition", "spelling"))
    assert rule_of(addition) is find_task("addition").reward
    both = rule_of([*addition, *spelling])
    for example in (*addition, *spelling):
        assert both(example.messages[0]["content"], example.target or "", example.target) == 1
    word = spelling[0]
    assert 0 < both(word.messages[0]["content"], (word.target or "")[:1], word.target) < 1
    assert both("What is this?", "Tea.", None) == 0
    with pytest.raises(UserError, match="nothing says how good an answer") as found:
        rule_of([*addition, Example(({"role": "user", "content": "Hi"},))])
    assert "--reward FILE.py" in found.value.hint


class Run:
    """A run with a reward file that notes its execution in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mark = folder / "run", folder / "executed"
        code = f"open({str(self.mark)!r}, 'w').close()\n{SHORT}"
        self.names = [write(folder / "a", code), write(folder / "b", SHORT)]
        files = read_reward_files(self.names)
        self.recorded = reward_metadata(files)
        self.reward = open_reward(self.names, [], files, no_run)
        self.mark.unlink()
        store_reward_files(files, self.folder)

    def resume(self, **options: Any) -> Reward:
        return open_reward(self.names, [], stored_reward_files(self.folder, self.recorded, **options), no_run)


def test_resumed_run_executes_its_own_copies(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in run.names:
        Path(name).write_text("def reward(answer):\n    return 0.0\n", encoding="utf-8")
    assert run.resume()("p", "abc", None) == run.reward("p", "abc", None) == 0.5
    assert run.mark.exists()
    assert sorted(path.name for path in (run.folder / "rewards").iterdir()) == ["0-short.py", "1-short.py"]


def test_run_from_elsewhere_executes_nothing_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    monkeypatch.setattr(rewards, "cache_dir", lambda: tmp_path / "another user")
    with pytest.raises(UserError, match=r"a program that you have not run on this machine: '.*0-short.py'") as found:
        run.resume()
    assert not run.mark.exists()
    assert "--trust-reward" in found.value.hint
    assert run.resume(trust=True)("p", "abc", None) == 0.5
    assert run.mark.exists()
    run.resume()  # it is known from now on


def test_changed_copy_is_refused_even_if_trusted(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run.folder / "rewards", "print('something else')\n" + SHORT, "1-short.py")
    for options in ({}, {"trust": True}):
        with pytest.raises(UserError, match=r"has changed: '.*1-short.py'"):
            run.resume(**options)
    assert not run.mark.exists()
    (run.folder / "rewards" / "1-short.py").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        run.resume()


def test_forged_record_does_not_help(tmp_path: Path) -> None:
    """Whoever changes the copy can change run.json too: only the hash in the user's own cache decides."""
    run = Run(tmp_path)
    content = b"raise AssertionError('executed')\n"
    (run.folder / "rewards" / "0-short.py").write_bytes(content)
    forged = RewardFile(run.names[0], content, Path("x")).sha256
    run.recorded[run.names[0]] = forged
    with pytest.raises(UserError, match="not run on this machine"):
        run.resume()


def test_content_that_is_hashed_is_what_is_executed(tmp_path: Path) -> None:
    name = write(tmp_path, SHORT)
    (file,) = read_reward_files([name])
    Path(name).write_text("raise AssertionError('changed after it was read')", encoding="utf-8")
    assert open_reward([name], [], [file], no_run)("", "abc", None) == 0.25
    assert not list(tmp_path.rglob("*.pyc"))
