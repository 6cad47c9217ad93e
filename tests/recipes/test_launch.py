"""What is made here of the words and the status of a training that goes on elsewhere."""

import signal
from pathlib import Path

import pytest

from fledge.base.errors import Interrupted, UserError
from fledge.recipes.errands import Errand
from fledge.recipes.launch import came_to, echoing


def refuse() -> None:
    print("two: 4,352 parameters, and a ä")
    raise UserError("no such text", "name another")


def test_a_refusal_there_is_one_here_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "rank-0.log"
    with echoing(log):
        code = Errand(refuse, log).do()
    assert capsys.readouterr().err == "two: 4,352 parameters, and a ä\n"
    with pytest.raises(UserError, match="no such text") as caught:
        came_to(code, log, "two", tmp_path)
    assert caught.value.hint == "name another"


def test_what_is_said_is_heard_once_however_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, lines = tmp_path / "rank-0.log", [f"step {number}\n" for number in range(50)]
    with echoing(log):
        for line in lines:
            for part in (line[:3], line[3:]):
                with log.open("a") as file:
                    file.write(part)
    assert capsys.readouterr().err == "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_there_is_one_here(tmp_path: Path, number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught:
        came_to(128 + number, tmp_path / "log", "two", tmp_path)
    assert caught.value.code == 128 + number
    assert caught.value.resume_with == "fledge resume two"
