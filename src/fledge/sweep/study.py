"""What is known of a sweep's trials: `sweep.json`, one sealed file that is written anew at each event.

So it is whole after any kill. It says what was tried and what came of it; what is unfinished lies in its run folder.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fledge.core.checksums import checked_content, with_checksum
from fledge.core.errors import UserError
from fledge.core.files import write_atomic
from fledge.runs.config_diff import config_changes

RECORD = "sweep.json"
BEGUN, FINISHED, FAILED = "begun", "finished", "failed"


@dataclass(frozen=True)
class Trial:
    number: int
    chosen: dict[str, Any]
    state: str = BEGUN
    loss: float | None = None  # the least there was, by the sweep's metric
    step: int = 0
    why: str = ""  # it failed

    @property
    def name(self) -> str:
        return f"trial-{self.number:04d}"


class Study:
    """The trials of a sweep, on disk as here."""

    def __init__(self, folder: Path, about: Mapping[str, Mapping[str, Any]]) -> None:
        """Opened where it is there, and then it must be of the same sweep."""
        self.path, self.about = folder / RECORD, about
        self.trials: list[Trial] = []
        if not self.path.exists():
            return
        try:
            held = checked_content(self.path.read_bytes(), indent=1)
        except ValueError:
            raise UserError(
                f"'{self.path}' is damaged", "restore it from a copy, or sweep under another --run"
            ) from None
        if found := config_changes(held["about"], about):
            raise UserError(
                f"the sweep '{folder.name}' was begun with other settings: {'; '.join(map(str, found))}",
                "put them back, or choose another --run NAME",
            )
        self.trials = [Trial(**trial) for trial in held["trials"]]

    def begin(self, chosen: dict[str, Any]) -> Trial:
        trial = Trial(len(self.trials) + 1, chosen)
        self.trials.append(trial)
        self._write()
        return trial

    def end(self, trial: Trial, **known: Any) -> Trial:
        ended = replace(trial, **known)
        self.trials[trial.number - 1] = ended
        self._write()
        return ended

    def in_state(self, state: str) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == state]

    def ranked(self) -> list[Trial]:
        """Best first, then those that are not finished."""
        return sorted(self.trials, key=lambda trial: (trial.loss is None, trial.loss or 0.0, trial.number))

    def best(self) -> Trial | None:
        return next((trial for trial in self.ranked() if trial.loss is not None), None)

    def _write(self) -> None:
        content = {"format": 1, "about": self.about, "trials": [asdict(trial) for trial in self.trials]}
        write_atomic(self.path, with_checksum(content, indent=1))
