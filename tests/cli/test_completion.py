"""Tab completion: the words that fit, read off parsers and settings, without torch; and the scripts in real shells."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.cli.completion import candidates
from fledge.cli.main import SUMMARIES, main, make_parser
from fledge.settings.layers import preset_files


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/bird/config.toml", "elsewhere/duck/config.toml", "my notes/a.txt", "mybook.txt", ".hidden/b"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["tr"], ["train"]),
        (["train", "my"], ["my notes/", "mybook.txt"]),
        (["train", "my notes/"], ["my notes/a.txt"]),
        (["train", "dem"], ["demo"]),
        (["train", "demo", "--train.dt"], ["--train.dtype"]),
        (["train", "demo", "--dpo."], []),
        (["align", "dpo", "--dpo.be"], ["--dpo.beta"]),
        (["align", "dpo", "--dpo.loss", "i"], ["ipo"]),
        (["align", "dpo", "--init", ""], ["bird"]),
        (["train", "demo", "--train.dtype", "b"], ["bfloat16"]),
        (["train", "demo", "--train.dtype=b"], ["--train.dtype=bfloat16"]),
        (["train", "demo", "--train.dtype", "=", "b"], ["bfloat16"]),
        (["train", "demo", "--train.dtype", "="], ["auto", "float32", "bfloat16", "float16"]),
        (["train", "--train.compile", ""], ["auto", "true", "false"]),
        (["train", "--data.corpus", "myb"], ["mybook.txt"]),
        (["train", "--no.such", ""], []),
        (["train", "--init", ""], ["bird"]),
        (["train", "--pri"], ["--print-config"]),
        (["train", "--print-config", "dem"], ["demo"]),
        (["generate", "--runs", "elsewhere", ""], ["duck"]),
        (["generate", "--runs=elsewhere", ""], ["duck"]),
        (["generate", "--se"], ["--seed"]),
        (["generate", "--train.st"], []),
        (["runs", ""], ["delete", "rename"]),
        (["runs", "delete", ""], ["bird"]),
        (["runs", "delete", "--y"], ["--yes"]),
        (["tokenizer", "train", "--ki"], ["--kind"]),
        (["tokenizer", "train", "--kind", ""], ["bpe", "char", "gpt2", "p50k"]),
        (["export", "bird", "--to", ""], ["hf", "gguf"]),
        (["presets", "modern-5"], ["modern-5m"]),
        (["corpora", "shake"], ["shakespeare"]),
        (["prepare", "x", "--tokenizer", "g"], ["gpt2"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nonsense", ""], []),
        (["train", "absent/"], []),
    ],
    ids=" ".join,
)
def test_words_that_fit(line: list[str], expected: list[str]) -> None:
    assert candidates(line) == expected


@given(
    st.lists(st.sampled_from(["=", "", "-", "--", "train", "runs", "delete", "--run", "--train.dtype", "--a=b", "."]))
)
def test_any_line_can_be_completed(words: list[str]) -> None:
    found = candidates(words)
    assert len(found) == len(set(found))  # nothing is offered twice


def test_every_command_option_and_preset_is_offered() -> None:
    assert candidates([]) == candidates([""]) == [*SUMMARIES]
    assert set(preset_files()) <= set(candidates(["train", ""]))
    for name in SUMMARIES:
        options = {option for action in make_parser(name)._actions for option in action.option_strings}
        offered = set(candidates([name, "--"]))
        assert {option for option in options if option.startswith("--") and "." not in option} <= offered


def test_completing_imports_no_torch() -> None:
    code = """
import sys
from fledge.cli.main import main
main(["completion", "words", ":train", ":demo", ":--train.dtype", ":"])
print(sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["auto", "float32", "bfloat16", "float16"]
    assert {"torch", "numpy", "rich", "pyarrow"}.isdisjoint(ast.literal_eval(done.stderr.splitlines()[-1]))


SHELLS = {
    "bash": """
        compopt() { :; }
        eval "$(fledge completion bash)"
        try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _fledge; echo "${COMPREPLY[*]}"; }
        """,
    "zsh": """
        compdef() { :; }
        compadd() { while [[ $1 != -- ]]; do shift; done; shift; print -rn -- "$* "; }
        eval "$(fledge completion zsh)"
        try() { words=("$@"); CURRENT=$#; _fledge; print; }
        """,
    "fish": """
        fledge completion fish | source
        function try; complete -C (string join -- ' ' $argv) | string join ' '; end
        """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_script_completes_in_the_shell(folder: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (folder / "bin").mkdir()
    (folder / "bin" / "fledge").write_text(f'#!/bin/sh\nexec {sys.executable} -m fledge "$@"\n')
    (folder / "bin" / "fledge").chmod(0o755)
    lines = [
        "try fledge train demo --train.dtype b",
        "try fledge generate ''" if shell != "fish" else "try fledge generate ' '",
        "try fledge train myb",
        "try fledge train --print-c",
        "try fledge nonsense x",
    ]
    done = subprocess.run(
        [program, "-c", SHELLS[shell] + "\n".join(lines)],
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert found == ["bfloat16", "bird", "mybook.txt", "--print-config"], done.stderr


def test_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
