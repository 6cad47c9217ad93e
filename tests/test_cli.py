"""The command line: help, dispatch, exit status."""

import ast
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fledge import __version__
from fledge.cli.main import COMMAND_GROUPS, SUMMARIES, load_command, main, make_parser, parse
from fledge.core.errors import UserError
from fledge.core.files import atomic_folder

HEAVY = {"torch", "numpy", "matplotlib", "rich", "tokenizers", "regex", "gigatoken"}
SUBCOMMANDS = [
    ("tokenizer", "train"),
    ("tokenizer", "show"),
    ("tokenizer", "report"),
    ("runs", "delete"),
    ("runs", "rename"),
]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_overview_lists_every_command_on_one_screen(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    for name in SUMMARIES:
        assert [line for line in lines if line.startswith(f"  {name} ")], name


@pytest.mark.parametrize("name", ["watch", "plot", "report"])
def test_commands_on_a_whole_run_offer_no_checkpoint(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "@best" not in help_of(capsys, name)
    assert "@best" in help_of(capsys, "generate")


def test_every_command_has_one_group() -> None:
    assert sum(map(len, COMMAND_GROUPS.values())) == len(SUMMARIES)


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_has_a_module(name: str) -> None:
    assert callable(load_command(name).run)


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("name", SUMMARIES)
def test_help_fits_one_screen_and_has_an_example(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = help_of(capsys, name).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert any(line.startswith(f"  fledge {name}") for line in lines)
    assert any(line in ("example:", "examples:") for line in lines)


@pytest.mark.parametrize(("name", "action"), SUBCOMMANDS)
def test_help_of_a_subcommand_has_an_example(capsys: pytest.CaptureFixture[str], name: str, action: str) -> None:
    assert f"  fledge {name} {action} " in help_of(capsys, name, action)


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_argument_has_help(name: str) -> None:
    for action in make_parser(name)._actions:
        assert action.help or action.choices, action.dest


EXAMPLES = {
    line for name in SUMMARIES for line in load_command(name).EXAMPLES if line.startswith(("fledge", "torchrun"))
}


@pytest.mark.parametrize("example", sorted(EXAMPLES))
def test_every_example_parses(example: str) -> None:
    program, *argv = shlex.split(
        example.partition("    ")[0]
        .partition(" > ")[0]
        .partition(" < ")[0]
        .removeprefix("torchrun --nproc-per-node 4 -m -- ")
    )
    assert program == "fledge"
    assert parse(argv).command == argv[0]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["trian"], ["train", "demo", "--x"]])
def test_help_and_wrong_arguments_import_no_torch(argv: list[str]) -> None:
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
def test_version_is_printed(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"fledge {__version__}\n"


def test_exit_status_of_the_process_is_that_of_main() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fledge", "trian"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown command 'trian'\nhint: did you mean 'train'?\n"


def test_debug_raises_the_error() -> None:
    with pytest.raises(UserError, match="absent"):
        main(["presets", "absent", "--debug"])


@pytest.mark.parametrize("argv", ["['--help']", "['corpora']", "['train', '--help']"])
def test_closed_stdout_pipe_is_no_error(argv: str) -> None:
    read, write = os.pipe()
    os.close(read)
    code = f"from fledge.cli.main import main; raise SystemExit(main({argv}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_full_disk_on_stdout_is_an_error() -> None:
    code = "from fledge.cli.main import main; raise SystemExit(main(['corpora']))"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert done.stderr.decode().splitlines()[0].startswith("error: the disk is full")
    assert len(done.stderr.splitlines()) == 2
    assert done.returncode == 2


def test_settings_may_come_before_the_preset() -> None:
    args = parse(["train", "--train.steps", "200", "demo"])
    assert (args.words, args.overrides) == (["demo"], ["--train.steps", "200"])


def test_settings_may_come_between_the_sources() -> None:
    args = parse(["prepare", "a.txt", "--data.val", "0.1", "b.txt", "--out", "d"])
    assert (args.sources, args.overrides) == (["a.txt", "b.txt"], ["--data.val", "0.1"])


@pytest.mark.parametrize(
    "value", ["--- Chapter 1", "---", "-", "-x", "- first", "--a b", "--\nx.y", "-5", "—", "--- a=b"]
)
def test_value_may_begin_with_dashes(value: str) -> None:
    args = parse(["generate", "--prompt", value, "bird", "--tokens", "5"])
    assert (args.prompt, args.run, args.tokens) == (value, "bird", 5)
    assert parse(["generate", f"--prompt={value}"]).prompt == value
    assert parse(["train", "--track.prompt", value, "demo"]).overrides == ["--track.prompt", value]


@pytest.mark.parametrize(
    "words", [["--prompt", "--tokens", "5"], ["--prompt"], ["--prompt", "--", "a"], ["--prompt", "--misspelt"]], ids=str
)
def test_value_that_is_missing_is_not_an_option(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"expected one argument|'--misspelt'"):
        parse(["generate", *words])


def test_common_arguments_may_come_anywhere() -> None:
    for argv in (["tokenizer", "--json", "show", "f", "t"], ["tokenizer", "show", "f", "t", "--json"]):
        assert parse(argv).json is True
    assert parse(["runs", "--runs", "elsewhere"]).runs == Path("elsewhere")


def test_options_cannot_be_abbreviated() -> None:
    for argv in (["train", "demo", "--print"], ["tokenizer", "train", "a", "--ou", "b"]):
        with pytest.raises(UserError):
            parse(argv)


def test_sigterm_removes_temporary_files_and_exits_143(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "left"

    def work(_: object) -> None:
        with atomic_folder(folder) as inside:
            (inside / "half").write_text("")
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("fledge.cli.commands.runs.run", work)
    assert main(["runs"]) == 143
    assert capsys.readouterr().err == "stopped\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before
