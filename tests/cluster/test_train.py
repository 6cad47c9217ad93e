"""The log and the exit status of rank 0, as the command that launched a training on Ray shows them."""

import signal
from pathlib import Path

import pytest

from fledge.cluster.train import follow_log, raise_for_status
from fledge.core.errors import Interrupted, UserError
from fledge.core.jobs import Job


def refuse() -> None:
    print("two: 4,352 parameters, and a ä")
    raise UserError("no such text", "name another")


def test_refusal_of_rank_0_is_raised_and_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "rank-0.log"
    with follow_log(log):
        code = Job(refuse, log).run()
    assert capsys.readouterr().err == "two: 4,352 parameters, and a ä\n"
    with pytest.raises(UserError, match="no such text") as caught:
        raise_for_status(code, log, "two")
    assert caught.value.hint == "name another"


def test_log_lines_written_in_pieces_are_copied_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, lines = tmp_path / "rank-0.log", [f"step {number}\n" for number in range(50)]
    with follow_log(log):
        for line in lines:
            for part in (line[:3], line[3:]):
                with log.open("a") as file:
                    file.write(part)
    assert capsys.readouterr().err == "".join(lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_of_rank_0_is_raised_as_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught:
        raise_for_status(128 + number, tmp_path / "log", "two")
    assert caught.value.code == 128 + number
    assert caught.value.resume_with == "fledge resume two"
