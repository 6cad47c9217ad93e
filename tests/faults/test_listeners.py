"""Whoever listens to a run may raise, hang or fall behind: the training is the same."""

import csv
import shutil
import statistics
from pathlib import Path

import pytest

from campaign import WHOLE, Tell
from conftest import Undisturbed
from house import House
from listeners import KINDS, train_with

SAID = {
    "raises": "warning: Guest failed and is switched off: no more network",
    "hangs": "warning: Guest does not answer, and is left behind",
    "fills its queue": "warning: Guest is too slow: what it cannot take is not told to it",
    "hangs from the start": "warning: Guest does not answer, and is left behind",
}
ROUNDS = 5
LONG = ("--train.steps", "200", "--train.eval_every", "0", "--train.save_every", "200")


@pytest.mark.parametrize("kind", SAID)
def test_a_guest_that_behaves_badly_changes_nothing(undisturbed: Undisturbed, tmp_path: Path, kind: str) -> None:
    house = undisturbed.beside(tmp_path / "house")
    child = house.train(through=(train_with, kind))
    assert child.wait() == 0, child.said()
    assert child.said().count(SAID[kind]) == 1
    assert house.remains() == undisturbed.remains


@pytest.mark.skipif(not WHOLE, reason="a measurement, for the table of the whole campaign: FLEDGE_FAULTS=whole")
def test_what_guests_cost(undisturbed: Undisturbed, tmp_path: Path, tell: Tell) -> None:
    """In turns, so that whatever else the machine does slows all of them."""
    house = undisturbed.beside(tmp_path / "house")
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind, found in seconds.items():
            shutil.rmtree(house.runs, ignore_errors=True)
            assert house.train(*LONG, through=(train_with, kind)).wait() == 0
            found.append(step_seconds(house))
    plain = statistics.median(seconds["none"])
    for kind in SAID:
        change = statistics.median(seconds[kind]) / plain - 1
        tell("guests: longer steps", f"one that {kind}", f"{change:+.1%}")


def step_seconds(house: House) -> float:
    with (house.run / "metrics.csv").open(newline="") as file:
        return statistics.median(float(row["step_seconds"]) for row in csv.DictReader(file) if row["step_seconds"])
