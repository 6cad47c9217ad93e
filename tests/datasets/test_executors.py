"""Executors: the same results in any of them; killed workers; Ray by the command line."""

import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from fledge.cli.main import main
from fledge.cluster.prepare import ray_executor
from fledge.core.errors import UserError
from fledge.datasets import executors
from fledge.datasets.executors import MAX_ATTEMPTS, Executor, in_process, process_pool
from small_ray import small_ray

if TYPE_CHECKING:
    from .conftest import DatasetMaker

NUMBERS = range(6)
SQUARES = {number: number * number for number in NUMBERS}
ONCE = Counter(NUMBERS)


@pytest.fixture(scope="module")
def actions() -> Iterator[ModuleType]:
    """actions.py, imported under a name that workers find too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        import actions

        yield actions


@pytest.fixture(scope="module")
def cluster(actions: ModuleType) -> Iterator[str]:
    with small_ray() as address:
        yield address


@pytest.fixture(params=["processes", "ray"])
def workers(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """An executor with two workers in other processes."""
    if request.param == "processes":
        yield process_pool(2)
        return
    request.getfixturevalue("cluster")
    with ray_executor(None, None) as executor:
        yield executor


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


# Results


def test_results_come_with_their_inputs(workers: Executor, actions: ModuleType, marks: Path) -> None:
    assert dict(workers(partial(actions.square, marks), NUMBERS)) == SQUARES
    assert actions.marks(marks) == ONCE


def test_no_items_start_no_workers(workers: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "ProcessPoolExecutor", None)
    monkeypatch.setattr("fledge.cluster.prepare.islice", None)
    assert list(workers(print, [])) == []


def test_dataset_is_the_same_for_any_executor(workers: Executor, make: "DatasetMaker", small_parts: None) -> None:
    (make.folder / "poems").mkdir()
    for number in range(5):
        (make.folder / "poems" / f"{number}.txt").write_text(f"poem {number % 4}\n\n{'la ' * number}, und Käse 🦆")
    asked = {"separator": "\n\n", "dedup": True, "test": 0.2}
    alone = make(make.spec("poems", out="alone", **asked))
    assert make(make.spec("poems", out="together", **asked), workers) == alone
    assert sum(name.endswith(".tokens") for name in alone) > 2


def test_ray_runs_at_most_the_given_number_of_tasks(cluster: str, actions: ModuleType, marks: Path) -> None:
    with ray_executor(None, 1) as executor:
        assert dict(executor(partial(actions.world, marks), NUMBERS)) == dict.fromkeys(NUMBERS, 1)


def test_worker_count_is_requested_or_depends_on_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "usable_cores", lambda: 7)
    assert executors.worker_count(3, 1) == executors.worker_count(3, executors.MIN_PARALLEL_BYTES) == 3
    assert executors.worker_count(None, executors.MIN_PARALLEL_BYTES) == 7
    assert executors.worker_count(None, executors.MIN_PARALLEL_BYTES - 1) == 1
    assert executors.local_executor(1) is in_process


# Failures


def test_killed_worker_loses_only_its_current_item(workers: Executor, actions: ModuleType, marks: Path) -> None:
    action = partial(actions.square_or_die, marks, 3, len(NUMBERS) - 1, 1)
    assert dict(actions.noted(marks, workers(action, NUMBERS))) == SQUARES
    assert actions.marks(marks) == ONCE + Counter([3])


def test_repeatedly_killed_workers_are_given_up(workers: Executor, actions: ModuleType, marks: Path) -> None:
    results, found = workers(partial(actions.square_or_die, marks, 3, len(NUMBERS) - 1, 99), NUMBERS), {}
    results = actions.noted(marks, results)
    with pytest.raises(UserError, match="killed") as caught:
        found.update(results)
    assert "--workers 1" in caught.value.hint
    assert found == {number: square for number, square in SQUARES.items() if number != 3}
    assert actions.marks(marks)[3] >= MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("action", "kind", "words"),
    [("refuse", UserError, "5 is odd"), ("fill_the_disk", OSError, "/somewhere/5"), ("stumble", KeyError, "5")],
)
def test_exception_of_a_worker_is_raised_here(
    workers: Executor, actions: ModuleType, action: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        list(workers(getattr(actions, action), [5]))
    assert getattr(caught.value, "hint", "take an even one") == "take an even one"
    assert getattr(caught.value, "errno", None) == (28 if kind is OSError else None)


def test_workers_block_sigint_even_while_starting(actions: ModuleType) -> None:
    heard = dict(process_pool(2)(actions.hears, [signal.SIGINT, signal.SIGTERM]))
    assert heard == {signal.SIGINT: False, signal.SIGTERM: True}
    assert actions.hears(signal.SIGINT)  # this process is not affected


# Ray by the command line


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three small texts in the working directory, which is not that of Ray."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"Once upon a time there were {number} ducks.\n" * 30)
    return tmp_path


def fledge(*words: str, code: str = "") -> "subprocess.CompletedProcess[str]":
    program = f"{code}\nimport sys\nfrom fledge.cli.main import main\nsys.exit(main())"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PREPARE = ["prepare", "0.txt", "1.txt", "2.txt", "--tokenizer.kind", "char", "--data.dedup", "true", "--out"]


def test_prepare_on_a_ray_cluster_gives_the_same_bytes(texts: Path, cluster: str) -> None:
    assert main([*PREPARE, "alone"]) == 0
    done = fledge(*PREPARE, "together", "--engine", "ray", "--address", cluster, "--json")
    assert (done.returncode, json.loads(done.stdout)["vocab_size"] > 9) == (0, True), done.stderr
    assert contents(texts / "together") == contents(texts / "alone")


def test_ray_messages_do_not_reach_stdout(texts: Path, cluster: str) -> None:
    code = "import actions; from fledge.datasets import build; build.make_part = actions.die"
    done = fledge(*PREPARE, "out", "--engine", "ray", "--address", cluster, "--json", code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: workers were killed" in done.stderr
    assert "raylet" in done.stderr


def test_ray_with_another_fledge_version_is_refused(texts: Path, cluster: str) -> None:
    other = "import fledge; fledge.__version__ = '9'"
    done = fledge(*PREPARE, "out", "--engine", "ray", "--address", cluster, code=other)
    assert done.returncode == 2
    assert "error: this is fledge 9, and the Ray cluster has " in done.stderr
    assert not (texts / "out").exists()


def test_ray_that_needs_a_token_says_so(texts: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(texts))
    done = fledge(*PREPARE, "out", "--engine", "ray", "--address", cluster)
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN" in done.stderr.partition("hint:")[2]


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:99999999", "ray://127.0.0.1"])
def test_invalid_ray_address_is_refused_before_reading(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    assert main(["prepare", "absent.txt", "--out", "out", "--engine", "ray", "--address", address]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: there is no Ray cluster at '{address}'\nhint: check --address")


def test_missing_cluster_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"  # closed in a moment
    assert main(["prepare", "absent.txt", "--out", "out", "--engine", "ray", "--address", address]) == 2
    assert f"no Ray cluster at '{address}'" in capsys.readouterr().err


def test_address_without_engine_ray_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "absent.txt", "--out", "out", "--address", "127.0.0.1:6379"]) == 2
    assert "--engine ray" in capsys.readouterr().err


def test_missing_ray_package_is_refused_with_pip_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["prepare", "absent.txt", "--out", "out", "--engine", "ray"]) == 2
    assert "pip install 'fledge[ray]'" in capsys.readouterr().err
