"""Whoever listens to a run may raise, hang or fall behind: the training is the same."""

import time
from pathlib import Path

import pytest

from campaign import WHOLE, Tell
from conftest import Undisturbed
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.events import Stepped
from fledge.tracking.sinks import TrackerSink
from listeners import KINDS, train_with

SAID = {
    "raises": "warning: Guest failed and is switched off: no more network",
    "hangs": "warning: Guest does not answer, and is left behind",
    "fills its queue": "warning: Guest is too slow: what it cannot take is not told to it",
    "hangs from the start": "warning: Guest does not answer, and is left behind",
}
BATCHES, BATCH = 50, 20


@pytest.mark.parametrize("kind", SAID)
def test_a_guest_that_behaves_badly_changes_nothing(undisturbed: Undisturbed, tmp_path: Path, kind: str) -> None:
    house = undisturbed.beside(tmp_path / "house")
    child = house.train(through=(train_with, kind))
    assert child.wait() == 0, child.said()
    assert child.said().count(SAID[kind]) == 1
    assert house.remains() == undisturbed.remains


@pytest.mark.skipif(not WHOLE, reason="a measurement, for the table of the whole campaign: FLEDGE_FAULTS=whole")
@pytest.mark.parametrize("kind", SAID)
def test_what_a_guest_costs(undisturbed: Undisturbed, tell: Tell, kind: str) -> None:
    """As a share of a step of the tiniest training, which tells one event. The quickest batch counts."""
    tracker = TrackerSink([AsyncSink("Guest", KINDS[kind], welcome=0.2, farewell=0.0)])
    seconds = []
    for number in range(BATCHES):
        begun = time.perf_counter()
        for step in range(BATCH):
            tracker.record(Stepped(BATCH * number + step, 0, 1.0, 1.0, 1.0, 1.0, 1.0))
        seconds.append((time.perf_counter() - begun) / BATCH)
    share = min(seconds) / undisturbed.lengths["step"]
    tell("guests: longer steps", f"one that {kind}", f"+{share:.2%}")
