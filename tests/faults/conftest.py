"""Shared by all fault tests: an undisturbed run to compare with, and the table at the end."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fault_campaign import WHOLE, Tell, tables, teller
from fault_harness import Harness
from fork_server import PHASES


@dataclass(frozen=True)
class Undisturbed:
    """A run without faults: its contents, its dataset, and how long each phase takes."""

    harness: Harness
    remains: dict[str, Any]
    visits: dict[str, int]
    lengths: dict[str, float]  # seconds of a visit

    def beside(self, folder: Path) -> Harness:
        """Another training of the same prepared text."""
        return Harness(folder, cache=self.harness.cache)


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[Undisturbed]:
    with tempfile.TemporaryDirectory() as name:
        Harness(Path(name) / "first").finish()  # prepares the dataset and warms the file cache
        harness = Harness(Path(name) / "second", cache=Path(name) / "first" / "cache")
        child = harness.train()
        assert child.wait() == 0, child.output()
        marks = child.marks
        lengths = {phase: marks.length(phase) for phase in PHASES}
        visits = dict(zip(PHASES, marks.entered, strict=True))
        others = sum(visits[phase] * lengths[phase] for phase in PHASES if phase != "start-up")
        lengths["start-up"] = max(0.0, lengths["start-up"] - others)  # some of them pass at once, in threads
        yield Undisturbed(harness, harness.contents(), visits, lengths)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    return teller(record_property)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if WHOLE:
        reports = [report for each in terminalreporter.stats.values() for report in each if hasattr(report, "when")]
        for line in tables(report for report in reports if report.when == "call"):
            terminalreporter.write_line(line)
