"""What all injected failures share: an undisturbed run to compare with, and the table at the end."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from campaign import WHOLE, Tell, tables, teller
from house import House
from nursery import PHASES


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed: what remains of it, where its dataset is, and how long each phase takes."""

    house: House
    remains: dict[str, Any]
    visits: dict[str, int]
    lengths: dict[str, float]  # seconds of a visit

    def beside(self, folder: Path) -> House:
        """Another training of the same text, which need not be prepared again."""
        return House(folder, cache=self.house.cache)


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[Undisturbed]:
    with tempfile.TemporaryDirectory() as name:
        House(Path(name) / "first").finish()  # prepares, and warms what the system keeps of files
        house = House(Path(name) / "second", cache=Path(name) / "first" / "cache")
        child = house.train()
        assert child.wait() == 0, child.said()
        marks = child.marks
        lengths = {phase: marks.length(phase) for phase in PHASES}
        visits = dict(zip(PHASES, marks.entered, strict=True))
        lengths["start-up"] -= sum(visits[phase] * lengths[phase] for phase in PHASES if phase != "start-up")
        yield Undisturbed(house, house.remains(), visits, lengths)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    return teller(record_property)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if WHOLE:
        reports = [report for each in terminalreporter.stats.values() for report in each if hasattr(report, "when")]
        for line in tables(report for report in reports if report.when == "call"):
            terminalreporter.write_line(line)
