"""Several processes that train together, forked from one that has torch already: that saves seconds for each."""

import multiprocessing
import os
import runpy
import socket
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

LONGEST = 120  # seconds that any of these may take
RANK = Path(__file__).parent / "rank.py"


class Ranks:
    """Processes that were started together."""

    def __init__(self, folder: Path, words: Sequence[str], size: int, first: str = "") -> None:
        self.said_in = [folder / f"rank-{os.urandom(4).hex()}.txt" for _ in range(size)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("forkserver")
        self.processes: list[ForkServerProcess] = []
        for rank in range(size):
            env = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            given = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in env.items()}}
            for name in ("FLEDGE_CACHE", "TORCHINDUCTOR_CACHE_DIR"):
                given[name] = os.environ[name]
            job = {"ENV": given, "WORDS": list(words), "SAID": str(self.said_in[rank]), "FIRST": first}
            self.processes.append(context.Process(target=runpy.run_path, args=(str(RANK), job)))
        for process in self.processes:
            process.start()

    def kill(self, rank: int, number: int) -> None:
        pid = self.processes[rank].pid
        assert pid
        os.kill(pid, number)

    def codes(self) -> list[int | None]:
        for process in self.processes:
            process.join(LONGEST)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def said(self) -> list[str]:
        return [path.read_text() for path in self.said_in]


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[..., Ranks]:
    """words, size → that many ranks at work. `first` is a script that each of them runs before."""
    return lambda words, size, first="": Ranks(tmp_path, words, size, first)


@pytest.fixture
def together(ranks: Callable[..., Ranks]) -> Callable[..., str]:
    """The same, finished well; what the first said."""

    def run(words: Sequence[str], size: int, first: str = "") -> str:
        started = ranks(words, size, first)
        codes = started.codes()
        said = started.said()
        assert codes == [0] * size, said
        assert not any(said[1:]), "only the first speaks"
        return said[0]

    return run
