"""The command line itself: help, dispatch, and how it ends."""

import ast
import importlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fledge import __version__
from fledge.cli.main import main, parse, parser_of
from fledge.cli.verbs import JOURNEY, VERBS
from fledge.core.errors import UserError
from fledge.core.files import atomic_folder

HEAVY = {"torch", "numpy", "matplotlib", "rich", "tokenizers", "regex", "gigatoken"}
SUBVERBS = [("tokenizer", "train"), ("tokenizer", "show"), ("tokenizer", "report")]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def help_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*argv, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]], ids=str)
def test_the_overview_names_every_verb_on_one_screen(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    for name in VERBS:
        assert [line for line in lines if line.startswith(f"  {name} ")], name


def test_every_verb_has_one_place_in_the_journey() -> None:
    assert sorted(name for names in JOURNEY.values() for name in names) == sorted(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_built(name: str) -> None:
    assert callable(importlib.import_module(f"fledge.recipes.{VERBS[name].recipe or name}").run)


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_fits_one_screen_and_holds_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = help_of(capsys, name).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    examples = lines[lines.index("examples:") + 1 :]
    assert any(line.startswith(f"  fledge {name}") for line in examples)


@pytest.mark.parametrize(("name", "act"), SUBVERBS)
def test_the_help_of_a_part_of_a_verb_holds_an_example(capsys: pytest.CaptureFixture[str], name: str, act: str) -> None:
    assert f"  fledge {name} {act} " in help_of(capsys, name, act)


@pytest.mark.parametrize("name", VERBS)
def test_the_help_says_what_every_argument_is_for(name: str) -> None:
    for action in parser_of(name, VERBS[name])._actions:
        assert action.help or action.choices, action.dest


COMMANDS = {line for verb in VERBS.values() for line in verb.examples if line.startswith(("fledge", "torchrun"))}


@pytest.mark.parametrize("example", sorted(COMMANDS))
def test_every_example_is_taken_by_the_parser(example: str) -> None:
    program, *argv = shlex.split(
        example.partition("    ")[0].partition(" > ")[0].removeprefix("torchrun --nproc-per-node 4 -m -- ")
    )
    assert program == "fledge"
    assert parse(argv).verb == argv[0]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["trian"], ["train", "demo", "--x"]])
def test_help_and_refusals_start_without_torch(argv: list[str]) -> None:
    code = f"""
import sys
from fledge.cli.main import main
try:
    main({argv!r})
except SystemExit:
    pass
print(sorted(sys.modules), file=sys.stderr)
"""
    modules = python(code).stderr.splitlines()[-1]
    assert HEAVY.isdisjoint(ast.literal_eval(modules))


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_told(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"fledge {__version__}\n"


def test_the_process_ends_with_the_status_of_main() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fledge", "trian"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown verb 'trian'\nhint: did you mean 'train'?\n"


def test_debug_shows_where_an_error_comes_from() -> None:
    with pytest.raises(UserError, match="absent"):
        main(["presets", "absent", "--debug"])


@pytest.mark.parametrize("argv", ["['--help']", "['corpora']", "['train', '--help']"])
def test_a_reader_that_has_seen_enough_is_no_error(argv: str) -> None:
    read, write = os.pipe()
    os.close(read)
    code = f"from fledge.cli.main import main; raise SystemExit(main({argv}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_answer_that_cannot_be_written_is_an_error() -> None:
    code = "from fledge.cli.main import main; raise SystemExit(main(['corpora']))"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.stderr.decode().splitlines()[0].startswith("error: the disk is full")
    assert len(done.stderr.splitlines()) == 2
    assert done.returncode == 2


def test_settings_may_stand_before_the_preset() -> None:
    args = parse(["train", "--train.steps", "200", "demo"])
    assert (args.preset, args.overrides) == ("demo", ["--train.steps", "200"])


def test_settings_may_stand_between_the_sources() -> None:
    args = parse(["prepare", "a.txt", "--data.val", "0.1", "b.txt", "--out", "d"])
    assert (args.sources, args.overrides) == (["a.txt", "b.txt"], ["--data.val", "0.1"])


def test_what_is_common_to_all_verbs_may_stand_anywhere() -> None:
    for argv in (["tokenizer", "--json", "show", "f", "t"], ["tokenizer", "show", "f", "t", "--json"]):
        assert parse(argv).json is True
    assert parse(["runs", "--runs", "elsewhere"]).runs == Path("elsewhere")


def test_options_cannot_be_abbreviated() -> None:
    for argv in (["train", "demo", "--print"], ["tokenizer", "train", "a", "--ou", "b"]):
        with pytest.raises(UserError):
            parse(argv)


def test_sigterm_tidies_up_and_owes_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is trained; what training does with it is its own matter."""
    left = tmp_path / "left"

    def work(_: object) -> None:
        with atomic_folder(left) as inside:
            (inside / "half").write_text("")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("fledge.recipes.runs.run", work)
    assert main(["runs"]) == 143
    assert capsys.readouterr().err == "stopped\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before
