"""What README.md shows can be run: its Python as it stands, and every command line as far as the arguments go."""

import re
import shlex
from pathlib import Path

import pytest

from fledge.cli.main import SUMMARIES, parse
from fledge.core.errors import UserError
from tiny import write_text

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.S))
COMMANDS = dict.fromkeys(
    command
    for span in SPANS
    for command in [span.removeprefix("torchrun --nproc-per-node 4 -m -- ")]
    if command.startswith("fledge ") and "VERB" not in command
)
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
def test_every_command_of_the_readme_parses(command: str) -> None:
    words = shlex.split(command.partition(" > ")[0])[1:]
    if len(words) == 1:  # a command as such, perhaps without what it needs
        assert words[0] in SUMMARIES
    else:
        assert parse(words).command == words[0]


def test_readme_shows_commands_and_python() -> None:
    assert len(COMMANDS) > 20
    assert PYTHON


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
