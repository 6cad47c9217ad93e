"""What is made here of the words and the status of a training that goes on elsewhere."""

import signal
from pathlib import Path

import pytest

from fledge.cluster.launch import exit_result, follow_log
from fledge.core.errors import Interrupted, UserError
from fledge.core.jobs import Job


def refuse() -> None:
    print("two: 4,352 parameters, and a ä")
    raise UserError("no such text", "name another")


def test_a_refusal_there_is_one_here_and_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "rank-0.log"
    with follow_log(log):
        code = Job(refuse, log).do()
    assert capsys.readouterr().err == "two: 4,352 parameters, and a ä\n"
    with pytest.raises(UserError, match="no such text") as caught:
        exit_result(code, log, "two", tmp_path)
    assert caught.value.hint == "name another"


def test_what_is_said_is_heard_once_however_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, lines = tmp_path / "rank-0.log", [f"step {number}\n" for number in range(50)]
    with follow_log(log):
        for line in lines:
            for part in (line[:3], line[3:]):
                with log.open("a") as file:
                    file.write(part)
    assert capsys.readouterr().err == "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_there_is_one_here(tmp_path: Path, number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught:
        exit_result(128 + number, tmp_path / "log", "two", tmp_path)
    assert caught.value.code == 128 + number
    assert caught.value.resume_with == "fledge resume two"
