"""One of several ranks dies, or is asked to stop: all end, what was saved is whole, and the run can go on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge.checkpoint import store

LONG = ("--train.steps", "400", "--train.save_every", "10", "--train.eval_every", "100", "--train.sample_every", "0")


def wait_for(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, f"{path} did not come so far"
        time.sleep(0.01)


def test_killed_rank_ends_all_and_the_run_is_intact(home: Any, ranks: Callable[..., Any]) -> None:
    started = ranks(home.training("bird", *LONG), 2)
    wait_for(home.runs / "bird" / "metrics.csv", 30)
    started.kill(1, signal.SIGKILL)
    assert started.codes() == [2, -signal.SIGKILL]
    said = started.said()[0]
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said
    assert "another process of this training run has ended" in said
    good, bad = store.list_checkpoints(home.runs / "bird" / "checkpoints")
    assert good
    assert not bad


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_signal_to_any_rank_saves_and_stops_all(home: Any, ranks: Callable[..., Any], rank: int, number: int) -> None:
    started = ranks(home.training("bird", *LONG, "--train.steps", "100000"), 2)
    wait_for(home.runs / "bird" / "metrics.csv", 12)
    started.kill(rank, number)
    assert started.codes() == [128 + number] * 2, started.said()
    newest = store.list_checkpoints(home.runs / "bird" / "checkpoints")[0][-1]
    rows = (home.runs / "bird" / "metrics.csv").read_bytes().count(b"\n")
    assert newest.step == rows - 2, "as far as it had come: the header and step 0 have a line, too"
    assert f"fledge resume {home.runs}/bird" in started.said()[0]
    assert not started.said()[1]


def test_torchrun_restart_continues_the_run(home: Any) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2"]
    words = [*torchrun, "-m", "--", "fledge", *home.training("bird", *LONG, "--train.steps", "150")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen([sys.executable, *words], text=True, stderr=subprocess.PIPE, env=environment)
    try:
        wait_for(home.runs / "bird" / "metrics.csv", 30)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said = agent.communicate(timeout=120)[1]
    finally:
        agent.terminate()  # it takes its processes along
    assert agent.returncode == 0, said
    assert "resuming 'bird' after step" in said
    rows = (home.runs / "bird" / "metrics.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == [str(step) for step in range(151)]


def test_restart_does_not_continue_an_older_run(home: Any) -> None:
    home.train("bird")
    store.remove_after(home.runs / "bird" / "checkpoints", 9)  # it could go on
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "--max-restarts", "1"]
    words = [*torchrun, "-m", "--", "fledge", *home.training("bird", "--train.steps", "6")]
    before = (home.runs / "bird" / "events.jsonl").read_bytes()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode != 0
    assert done.stderr.count("error: a run named 'bird' already exists") == 2, "at the start, and when started again"
    assert (home.runs / "bird" / "events.jsonl").read_bytes() == before


def test_restart_needs_the_name_of_the_run(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert home.do("train", str(home.toml), "--data.corpus", str(home.text)) == 2
    assert "--run NAME is required" in capsys.readouterr().err


def test_indivisible_batch_is_refused(home: Any, ranks: Callable[..., Any]) -> None:
    started = ranks(home.training("bird", "--train.batch", "9"), 2)
    assert started.codes() == [2, 2]
    said = started.said()
    assert "error: train.batch = 9 is not divisible by 2 processes\nhint: start 1, 3, 9 processes" in said[0]
    assert said[1] == ""
    assert not home.runs.exists()


def test_error_of_the_main_process_is_printed_once(home: Any, ranks: Callable[..., Any]) -> None:
    started = ranks(home.words("train", str(home.toml), "--data.corpus", "/nowhere"), 2)
    assert started.codes() == [2, 2]
    assert [said.count("error: ") for said in started.said()] == [1, 0], "the others wait for the text"
    assert "/nowhere" in started.said()[0]


LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))"


def test_unwritable_shard_is_an_error_without_traceback(home: Any, ranks: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "limit.py").write_text(LIMIT)
    larger = ("--model.n_embd", "64", "--train.parallel", "fsdp", "--train.sharded_save", "true")
    started = ranks(home.training("bird", *larger), 2, first=str(tmp_path / "limit.py"))
    assert started.codes() == [2, 2]
    said = started.said()
    assert said[0].count("error: ") == said[0].count("hint: ") == 1, said
    assert "Traceback" not in "".join(said)
    assert "File too large" in said[0]
    assert list((home.runs / "bird" / "checkpoints").iterdir()) == []


def test_other_verbs_refuse_torchrun(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert home.do("runs") == 2
    assert capsys.readouterr().err.startswith("error: torchrun cannot start fledge runs\nhint: it can start train")


def test_missing_rendezvous_is_an_error(
    home: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert home.do("train", str(home.toml)) == 2
    assert "did not find each other" in capsys.readouterr().err


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return not caller.connect_ex(("127.0.0.1", port))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_rank_exits_on_a_signal(home: Any, number: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "fledge", *home.training("bird")]
    process = subprocess.Popen(words, env={**os.environ, **place}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert time.monotonic() < deadline, "it does not wait for anybody"
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == -number
    finally:
        process.kill()


def test_ranks_evaluate_like_one_process(
    own: Any, together: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert own.do("eval", "bird", "--json") == 0
    alone = capsys.readouterr().out
    assert together(own.words("eval", "bird", "--json"), 3) == alone
