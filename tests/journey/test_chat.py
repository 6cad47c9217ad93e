"""fledge chat: a script of lines, a session in a terminal, and a model with a chat template."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fledge.checkpoint.state import initial_state
from fledge.cli.commands.chat import read_message
from fledge.core.config import to_toml
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.recipes.chat import Chat, open_chat
from fledge.runs.run_folder import create_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import parse_tokenizer
from fledge.tokenizers.chat_template import CHAT_TOKENS
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json

from .conftest import Home

WARNING = "warning: this model was not trained on conversations"


def talk(home: Home, monkeypatch: pytest.MonkeyPatch, lines: str, *words: str, run: str = "bird") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return home.do("chat", run, "--tokens", "10", *words)


def test_script_of_lines_gets_an_answer_to_each(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(trained, monkeypatch, "the\na", "--tokens", "3") == 0
    captured = capsys.readouterr()
    assert captured.err.count(WARNING) == 1
    assert talk(trained, monkeypatch, "the\na", "--tokens", "3", "--json") == 0
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant"] * 2
    answers = [each["content"] for each in messages[1::2]]
    assert captured.out == "".join(f"{answer}\n" for answer in answers)
    assert all(answers)


def test_second_answer_continues_the_whole_text(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(trained, monkeypatch, "the\n\n", "--greedy", "--tokens", "4", "--json") == 0
    texts = [each["content"] for each in json.loads(capsys.readouterr().out)["messages"]]
    assert trained.do("generate", "bird", "--prompt", "the", "--greedy", "--tokens", "8", "--json") == 0
    assert "".join(texts) == f"the{json.loads(capsys.readouterr().out)['text']}"


def test_text_without_a_template_slides_past_the_context(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--greedy", "--tokens", "40", "--dtype", "float32", "--past-context", "slide")
    assert trained.do("generate", "bird", "--prompt", "the", *words) == 0
    text = capsys.readouterr().out
    assert talk(trained, monkeypatch, "the", *words) == 0
    assert f"the{capsys.readouterr().out}" == text


def test_commands_change_the_session(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "the fox\n/temp 0\n/system a dog\n/help\n/reset\nfox\n/quit\nnever"
    assert talk(trained, monkeypatch, script, "--json") == 0
    captured = capsys.readouterr()
    messages = json.loads(captured.out)["messages"]
    assert messages[0]["content"] == "fox"
    assert "temperature 0\n" in captured.err
    assert "/reset          forget" in captured.err
    assert trained.do("generate", "bird", "--prompt", "a dog\nfox", "--greedy", "--tokens", "10", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == messages[1]["content"]


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        ("/tamp 3\n", (), "there is no command /tamp"),
        ("/temp warm\n", (), "'warm' is no temperature"),
        ("/temp -1\n", (), "temperature cannot be -1"),
        ("/temp nan\n", (), "temperature cannot be nan"),
        ("the Ω\n", (), "the character 'Ω'"),
        ("", ("--tokens", "-3"), "--tokens cannot be -3"),
        ("", ("--min-p", "7"), "min-p cannot be 7"),
    ],
)
def test_mistake_ends_a_script(
    trained: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: str,
    words: Any,
    message: str,
) -> None:
    assert talk(trained, monkeypatch, lines, *words) == 2
    said = capsys.readouterr().err
    assert f"error: {message}" in said
    assert "\nhint: " in said


def test_long_conversation_says_once_that_it_forgets(
    trained: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(trained, monkeypatch, "the quick\n" * 5) == 0
    assert capsys.readouterr().err.count("its beginning is forgotten") == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one"], "one"),
        (["one \\", "two\\", "three"], "one \ntwo\nthree"),
        (['"""one', "two\\", '"""'], "one\ntwo\\"),
        (['"""', " one", "", 'two"""'], " one\n\ntwo"),
        (['"""one"""'], "one"),
        (['"""one', "two"], "one\ntwo"),
    ],
)
def test_message_may_have_several_lines(lines: list[str], message: str) -> None:
    rest = iter(lines)

    def read(_: str) -> str:
        for line in rest:
            return line
        raise EOFError

    assert read_message(read) == message
    assert list(rest) == []


@pytest.fixture(scope="module")
def duck(trained: Home) -> Chat:
    """A model, not trained, whose tokenizer has the tokens of conversations."""
    content = HFTokenizer.train(["a duck can write and it quacks, too. " * 9], 270).to_json()
    added = added_tokens_json((270 + i, token, True) for i, token in enumerate(CHAT_TOKENS))
    tokenizer = parse_tokenizer({**content, "added_tokens": added}, "the test's")
    model = ModelConfig(n_layer=1, n_head=2, n_embd=16, context=64, vocab_size=tokenizer.vocab_size)
    file = {"file": str(trained.runs / "duck" / "tokenizer.json")}
    settings = validated({"model": vars(model), "tokenizer": file})
    start = initial_state({name: p.detach() for name, p in build(model, 0).named_parameters()}, 0)
    create_run(trained.runs / "duck", to_toml(settings), {"imported": "the test"}, tokenizer, start)
    return open_chat("duck", runs=trained.runs, tokens=20)


def test_model_with_our_tokens_is_not_warned_about(
    trained: Home, duck: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk(trained, monkeypatch, "a duck\n\n//help\n", "--json", run="duck") == 0
    captured = capsys.readouterr()
    assert WARNING not in captured.err
    assert [each["content"] for each in json.loads(captured.out)["messages"][::2]] == ["a duck", "/help"]


def test_end_of_turn_ends_the_answer(duck: Chat) -> None:
    """Of many answers of an untrained model some contain the token by chance."""
    reasons = set()
    for number in range(60):
        duck.conversation.reset()
        pieces = list(duck.ask(f"duck {number}"))
        reasons.add(duck.finish_reason)
        assert "".join(pieces) == duck.conversation.messages[-1]["content"]
    assert duck.template is not None
    assert duck.template.stop_tokens == (273,)
    assert reasons == {"stop", "length"}


def test_answers_to_the_same_question_differ(duck: Chat) -> None:
    answers = set()
    for _ in range(3):
        duck.conversation.reset()
        answers.add("".join(duck.ask("a duck")))
    assert len(answers) == 3


def test_second_turn_computes_its_new_tokens_only(trained: Home, duck: Chat) -> None:
    chat = open_chat(duck.run, runs=trained.runs, tokens=3)
    list(chat.ask("a duck can write"))
    counters = chat._engine.counters
    first = counters.prompt_tokens
    list(chat.ask("it quacks"))
    assert counters.reused_tokens >= first


def test_stopped_answer_stays_in_the_conversation(duck: Chat) -> None:
    duck.conversation.reset()
    answer = duck.ask("a duck")
    piece = "".join(next(answer) for _ in range(6))
    answer.close()
    assert [each["content"] for each in duck.conversation.messages] == ["a duck", piece]
    assert "".join(duck.ask("more")) == duck.conversation.messages[-1]["content"]


def own_terminal() -> None:
    """Make stdin the terminal of a new process, with Ctrl-C, which a job in the background ignores."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """`fledge chat` in a pseudo-terminal."""

    def __init__(self, words: list[str]) -> None:
        self._end, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fledge", *words],
            stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=own_terminal,
        )  # fmt: skip
        os.close(theirs)
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C until the pattern appears: a signal between the prompt and the reading of keys waits for a key."""
        for _ in range(30):
            self.type("\x03")
            if self._read_until(pattern, 2):
                return
        pytest.fail(f"no {pattern!r} in {self.output!r}")

    def expect(self, pattern: str) -> None:
        """Wait for a pattern in what has not been expected yet."""
        if not self._read_until(pattern, 60):
            pytest.fail(f"no {pattern!r} in {self.output!r}")

    def _read_until(self, pattern: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.output)):
            if time.monotonic() > deadline:
                return False
            if select.select([self._end], [], [], 0.2)[0]:
                try:
                    self.output += os.read(self._end, 65536).decode(errors="replace")
                except OSError:  # the program has ended
                    pytest.fail(f"ended before {pattern!r}: {self.output!r}")
        self.output = self.output[match.end() :]
        return True


@pytest.fixture
def terminal(trained: Home) -> Iterator[Terminal]:
    terminal = Terminal(trained.words("chat", "bird", "--tokens", "1000000", "--greedy"))
    yield terminal
    terminal.process.kill()
    terminal.process.wait()


def test_session_in_a_terminal(terminal: Terminal) -> None:
    """Ctrl-C stops an endless answer, and at the prompt says how to leave; a mistake ends nothing; Ctrl-D leaves."""
    terminal.expect(WARNING)
    terminal.expect("> ")
    terminal.type("the fox\n")
    terminal.expect("the fox\r\n.{100}")
    terminal.type("\x03")
    terminal.expect("\n> ")
    terminal.interrupt("to leave: /quit, or Ctrl-D")
    terminal.expect("> ")
    terminal.type("the Ω\n")
    terminal.expect("error: the character 'Ω'")
    terminal.expect("> ")
    terminal.type("/temp 0.5\n")
    terminal.expect("temperature 0.5")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=30) == 0


def test_sigterm_ends_a_session(terminal: Terminal) -> None:
    terminal.expect("> ")
    time.sleep(0.5)
    os.kill(terminal.process.pid, signal.SIGTERM)
    assert terminal.process.wait(timeout=30) == 143
