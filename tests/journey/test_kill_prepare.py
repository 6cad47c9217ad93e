"""`fledge prepare` killed or interrupted: no process is left, and the same command completes the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fledge.cli.main import main
from fledge.datasets import plan

BENCH = Path(__file__).parents[2] / "bench" / "kill_prepare.py"
SMALL_PARTS = """
import sys
from fledge.cli.main import main
from fledge.datasets import plan
plan.MIN_PART = plan.MAX_PART = 1
sys.exit(main())
"""
FILES = 400  # one part each: enough for the signal to arrive in time


def test_prepare_killed_at_any_moment_completes_the_same_bytes() -> None:
    words = [sys.executable, str(BENCH), "--times", "3", "--megabytes", "1", "--round", "dedup and filters"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all passed" in done.stdout


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    for number in range(FILES):
        (folder / f"{number:03d}.txt").write_text("".join(chance.choices("etaoin shrdlu\n", k=20_000)))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MIN_PART", 1)
        patch.setattr(plan, "MAX_PART", 1)
        yield


@pytest.fixture(scope="module")
def undisturbed(small_parts: None, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert main(asked(texts, out)) == 0
    return contents(out)


def asked(texts: Path, out: Path) -> list[str]:
    return ["prepare", str(texts), "--out", str(out), "--tokenizer.kind", "char", "--workers", "2"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def at_work(group: int) -> list[str]:
    """Command lines of the living processes of a group."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pgid=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def until(happens: Callable[[], object]) -> bool:
    end = time.monotonic() + 60
    while not happens() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(happens())


def hears_ctrl_c() -> None:
    """Restore SIGINT, which background processes of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "status", "moment"),
    [
        (signal.SIGINT, 130, "workers start"),
        (signal.SIGINT, 130, "parts are made"),
        (signal.SIGTERM, 143, "parts are made"),
    ],
)
def test_signal_ends_prepare_and_workers_without_traceback(
    texts: Path, undisturbed: dict[str, bytes], tmp_path: Path, number: int, status: int, moment: str
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", SMALL_PARTS, *asked(texts, out)]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hears_ctrl_c
    )
    signs = {
        "workers start": lambda: any("spawn_main" in words for words in at_work(process.pid)),
        "parts are made": lambda: any((out / ".parts").glob("[0-9]*.json")),
    }
    assert until(signs[moment])
    os.killpg(process.pid, number)  # like a terminal
    said = process.communicate(timeout=60)[1]
    assert process.returncode == status
    assert "Traceback" not in said
    assert until(lambda: not at_work(process.pid))
    assert not (out / "dataset.json").exists()
    assert main(asked(texts, out)) == 0
    assert contents(out) == undisturbed
