"""What README.md and docs/seeds.md show can be run: Python as it stands, commands as far as the arguments go."""

import itertools
import re
import shlex
from pathlib import Path

import pytest

from fledge.cli.main import SUMMARIES, parse
from fledge.core.errors import UserError
from tiny import write_text

ROOT = Path(__file__).parents[1]
README, SEEDS = (ROOT / name for name in ("README.md", "docs/seeds.md"))
PYTHON = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)


def commands_of(document: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    spans = [
        span.removeprefix("torchrun --nproc-per-node 4 -m -- ").replace("\\|", "|")
        for span in re.findall(r"`([^`\n]+)`", text)
    ]
    return [span for span in spans if span.startswith("fledge ") and not {"VERB", "PRESET"} & set(span.split())]


COMMANDS = dict.fromkeys(commands_of(README) + commands_of(SEEDS))
SMALL = """
[about]
preset = "demo"
[model]
n_layer = 1
n_head = 2
n_embd = 16
context = 16
[track]
sample_tokens = 8
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command.partition(" > ")[0])[1:]
    if len(words) == 1:  # a command as such, perhaps without what it needs
        assert words[0] in SUMMARIES
    else:
        assert parse(words).command == words[0]


def test_documents_show_commands_and_python() -> None:
    assert len(commands_of(README)) > 20
    assert len(commands_of(SEEDS)) > 20
    assert PYTHON


def test_tables_of_seeds_are_complete() -> None:
    """No empty cell, and every row has as many cells as the one above it."""
    lines = SEEDS.read_text(encoding="utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if line.startswith("|") and above.startswith("|"):
            assert all(cells), line
            assert len(cells) == len(re.split(r"(?<!\\)\|", above)) - 2, line


@pytest.mark.parametrize("code", PYTHON)
def test_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: str
) -> None:
    """Word for word, but on a small text with a small model for a few steps: the recipe that it names is replaced."""
    from fledge.recipes import train

    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "my-notes")
    (tmp_path / "demo.toml").write_text(SMALL)
    original = train.resolve_request

    def small(words: list[str], overrides: dict[str, dict[str, object]], runs: Path, init: str | None) -> object:
        short = {**overrides, "train": {**overrides.get("train", {}), "steps": 5}}
        return original(["demo.toml", *(word for word in words if word != "demo")], short, runs, init)

    monkeypatch.setattr(train, "resolve_request", small)
    monkeypatch.setattr(train, "fit_to_time", lambda request, *_: request)
    exec(code, {})  # noqa: S102
    assert capsys.readouterr().err == ""
    assert (tmp_path / "runs").exists()


def test_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(UserError, match="unknown argument '--no-such-option'"):
        parse(["train", "demo", "--no-such-option"])
