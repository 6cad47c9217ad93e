"""fledge chat: talk with a model, in a terminal or from a script of lines."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser, add_generation_arguments, add_run_argument, sampling_of, stop_strings
from fledge.cli.output import print_user_error, report
from fledge.core.errors import UserError, nearest
from fledge.core.formatting import printable
from fledge.core.progress import notice
from fledge.core.signals import Sigterm

if TYPE_CHECKING:
    from fledge.recipes.chat import Chat

EXAMPLES = (
    "fledge chat",
    "fledge chat smollm --system 'Be short.' --temperature 0.5",
    "fledge chat hamlet < lines.txt",
)
HELP = """\
/reset          forget the conversation
/system TEXT    tell the model what it is, in all answers from now on
/temp T         temperature of the next answers: 0 is greedy
/help           this list
/quit           leave; Ctrl-D, too
//…             a message that begins with a slash
Ctrl-C          stop the answer
\\ at the end    the message goes on in the next line; or put its lines between \"\"\" and \"\"\"
an empty line   a model without a chat template goes on where it stopped"""
LEAVE = "to leave: /quit, or Ctrl-D"
BLOCK = '"""'

ReadLine = Callable[[str], str]


def add_arguments(parser: Parser) -> None:
    parser.shorten_usage("[RUN]")
    add_run_argument(parser)
    parser.add_argument("--system", default="", metavar="TEXT", help="what the model is told first")
    add_generation_arguments(parser, tokens=200)


def run(args: argparse.Namespace) -> None:
    from fledge.recipes.chat import open_chat

    chat = open_chat(
        args.run,
        runs=args.runs,
        system=args.system,
        tokens=args.tokens,
        sampling=sampling_of(args),
        stop=stop_strings(args),
        past_context=args.past_context,
        device=args.device,
        dtype=args.dtype,
    )
    in_terminal = sys.stdin.isatty()
    notice(f"{chat.run}, step {chat.step:,}, {chat.choice.path}{'; /help shows the commands' * in_terminal}")
    if chat.template is None:
        notice("warning: this model was not trained on conversations: it only continues the text so far")
    (talk_in_terminal if in_terminal else talk)(chat, not args.json)
    if args.json:
        answer = {"run": chat.run, "step": chat.step, "messages": chat.conversation.messages}
        report(answer, as_json=True, text="")


def talk(chat: "Chat", show: bool) -> None:
    """With the lines of stdin, until they end. An error ends it."""
    with contextlib.suppress(EOFError):
        while take_turn(chat, read_message(read_stdin_line), print_piece if show else ignore_piece):
            pass


def talk_in_terminal(chat: "Chat", show: bool) -> None:
    """With a person: an error, or Ctrl-C, ends a turn only."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # input() then edits the line, and has a history
    while True:
        try:
            message = read_message(input)
            with interrupt_flag() as interrupted:
                if not take_turn(chat, message, print_piece if show else ignore_piece, interrupted):
                    return
        except EOFError:
            print()
            return
        except Sigterm:
            raise
        except KeyboardInterrupt:
            print(f"\n{LEAVE}")
        except UserError as error:
            print_user_error(error)


def read_stdin_line(_: str) -> str:
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError:
        raise UserError("stdin is not UTF-8 text", "convert it to UTF-8") from None
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def read_message(read: ReadLine) -> str:
    """One line, or several: those that end in a backslash and the next one, or those between two triple quotes."""
    line = read("> ")
    if line.lstrip().startswith(BLOCK):
        lines = [line.lstrip().removeprefix(BLOCK)]
        while not lines[-1].rstrip().endswith(BLOCK):
            try:
                lines.append(read("| "))
            except EOFError:
                return "\n".join(lines)
        lines[-1] = lines[-1].rstrip().removesuffix(BLOCK)
        return "\n".join(lines).strip("\n")
    while line.endswith("\\"):
        line = f"{line[:-1]}\n{read('| ')}"
    return line


def take_turn(
    chat: "Chat", message: str, show: Callable[[str], None], interrupted: Callable[[], bool] = lambda: False
) -> bool:
    """Run a command, or get an answer; False at /quit."""
    if message.startswith("/") and not message.startswith("//"):
        return run_chat_command(chat, message)
    message = message.removeprefix("/")
    if not message.strip() and chat.template is not None:
        return True
    had_dropped = chat.conversation.dropped > 0
    with contextlib.closing(chat.ask(message)) as pieces:
        for piece in pieces:
            show(piece)
            if interrupted():
                break
    show("\n")
    if chat.conversation.dropped and not had_dropped:
        notice("the conversation is longer than the model's context: its beginning is forgotten")
    if chat.finish_reason == "length" and chat.template is not None:
        notice("the answer was cut off; --tokens N allows longer ones")
    return True


def run_chat_command(chat: "Chat", message: str) -> bool:
    name, _, value = message.partition(" ")
    value = value.strip()
    if name in ("/quit", "/exit"):
        return False
    elif name == "/help":
        notice(HELP)
    elif name == "/reset":
        chat.conversation.reset()
        notice("the conversation begins anew")
    elif name == "/system":
        chat.conversation.system = value
        notice("system message set" if value else "no system message")
    elif name == "/temp":
        try:
            temperature = float(value)
        except ValueError:
            raise UserError(f"'{value}' is no temperature", "write a number: /temp 0.8") from None
        chat.sampling = replace(chat.sampling, temperature=temperature)
        notice(f"temperature {chat.sampling.temperature:g}")
    else:
        known = ("/reset", "/system", "/temp", "/help", "/quit")
        raise UserError(f"there is no command {name}", nearest(name, known) or "/help lists them; // begins a message")
    return True


def print_piece(text: str) -> None:
    print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)


def ignore_piece(_: str) -> None: ...


@contextlib.contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Ctrl-C only sets a flag during the block: the engine must not be interrupted in the middle of a step."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
