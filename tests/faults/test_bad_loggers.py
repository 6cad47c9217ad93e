"""A logger may raise, hang or fall behind: the training is the same."""

import time
from pathlib import Path

import pytest

from bad_loggers import KINDS, train_with
from conftest import Undisturbed
from fault_campaign import WHOLE, Tell
from fledge.tracking.async_sink import AsyncSink
from fledge.tracking.events import Metrics
from fledge.tracking.tracker import Tracker

WARNINGS = {
    "raises": "warning: Bad failed and is switched off: no more network",
    "hangs": "warning: Bad does not respond and was not closed",
    "fills its queue": "warning: Bad is too slow: events that do not fit into its queue are dropped",
    "hangs at start": "warning: Bad does not respond and was not closed",
}
BATCHES, BATCH = 50, 20


@pytest.mark.parametrize("kind", WARNINGS)
def test_bad_logger_does_not_change_training(undisturbed: Undisturbed, tmp_path: Path, kind: str) -> None:
    harness = undisturbed.beside(tmp_path / "harness")
    child = harness.train(entry=(train_with, kind))
    assert child.wait() == 0, child.output()
    assert child.output().count(WARNINGS[kind]) == 1
    assert harness.contents() == undisturbed.remains


@pytest.mark.skipif(not WHOLE, reason="a measurement, for the table of the whole campaign: FLEDGE_FAULTS=whole")
@pytest.mark.parametrize("kind", WARNINGS)
def test_cost_of_a_bad_logger(undisturbed: Undisturbed, tell: Tell, kind: str) -> None:
    """As a share of a step of a tiny training, with one event a step. The fastest batch counts."""
    tracker = Tracker([AsyncSink("Bad", KINDS[kind], start_timeout=0.2, close_timeout=0.0)])
    seconds = []
    for number in range(BATCHES):
        start = time.perf_counter()
        for step in range(BATCH):
            tracker.record(Metrics(BATCH * number + step, {"train/loss": 1.0, "train/lr": 1.0}))
        seconds.append((time.perf_counter() - start) / BATCH)
    share = min(seconds) / undisturbed.lengths["step"]
    tell("loggers: longer steps", f"one that {kind}", f"+{share:.2%}")
