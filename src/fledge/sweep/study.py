"""The trials of a sweep, kept in an Optuna journal: one line is appended and synced for each event.

So the record is complete if the process is killed. The weights of a trial are in its own run folder. Optuna's
tools (its dashboard, `optuna.load_study`) read the file as it is. Imports Optuna, so import it after `require_optuna`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from fledge.core.checksums import content_sha256
from fledge.core.errors import UserError
from fledge.runs.config_diff import config_changes
from fledge.runs.names import JOURNAL
from fledge.sweep.space import SweepPlan, suggest

NAME = "sweep"  # of the study in the journal
UNFINISHED, FINISHED, FAILED = "unfinished", "finished", "failed"
STATES = {TrialState.COMPLETE: FINISHED, TrialState.FAIL: FAILED}
CHECKSUM = "sha256"


@dataclass(frozen=True)
class Trial:
    number: int  # from 1
    settings: dict[str, Any]  # those that are tried: "optim.lr" → value
    state: str
    loss: float | None  # the lowest value of the sweep's metric
    step: int = 0  # the last that was logged
    reason: str = ""  # why it has failed

    @property
    def name(self) -> str:
        return f"trial-{self.number:04d}"


class Study:
    """The trials of the sweep in `folder`, which the caller has locked."""

    def __init__(self, folder: Path, plan: SweepPlan) -> None:
        """Open the study, or create it. One of another sweep is refused, with the settings that differ."""
        self.plan = plan
        storage = open_journal(folder / JOURNAL)
        try:
            self._study = optuna.load_study(study_name=NAME, storage=storage)
        except KeyError:
            self._study = optuna.create_study(study_name=NAME, storage=storage)
        if "identity" not in self._study.user_attrs:
            self._study.set_user_attr("identity", plan.identity)
        if changes := config_changes(self._study.user_attrs["identity"], plan.identity):
            raise UserError(
                f"the sweep '{folder.name}' was started with other settings: {'; '.join(map(str, changes))}",
                "restore them, or choose another --run NAME",
            )

    def trials(self, state: str | None = None) -> list[Trial]:
        """In the order in which they were started."""
        trials = [_trial(each) for each in self._study.get_trials(deepcopy=False)]
        return [trial for trial in trials if state in (None, trial.state)]

    def ranked(self) -> list[Trial]:
        """Best first; then those without a loss."""
        return sorted(self.trials(), key=lambda trial: (trial.loss is None, trial.loss or 0.0, trial.number))

    def ask(self) -> Trial:
        """Start the next trial. It is drawn in memory and stored as one record, so no kill leaves half of it."""
        self._study.add_trial(suggest(self.plan.space, self.plan.config.seed, self._study.trials))
        return self.trials()[-1]

    def finish(self, trial: Trial, loss: float, step: int) -> None:
        self._set_attribute(trial, "step", step)
        self._study.tell(trial.number - 1, loss)

    def fail(self, trial: Trial, reason: str) -> None:
        self._set_attribute(trial, "reason", reason)
        self._study.tell(trial.number - 1, state=TrialState.FAIL)

    def _set_attribute(self, trial: Trial, name: str, value: Any) -> None:
        stored = self._study.trials[trial.number - 1]
        optuna.trial.Trial(self._study, stored._trial_id).set_user_attr(name, value)


def _trial(stored: FrozenTrial) -> Trial:
    state = STATES.get(stored.state, UNFINISHED)
    return Trial(stored.number + 1, stored.params, state, stored.value, **stored.user_attrs)


class CheckedJournal(JournalFileBackend):
    """Optuna's journal file, with a checksum in every record."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        super().append_logs([{**log, CHECKSUM: content_sha256(log)} for log in logs])


def open_journal(path: Path) -> JournalStorage:
    """Open the journal for this process alone. A torn last record is dropped; any other damage is refused."""
    content = path.read_bytes() if path.exists() else b""
    complete = content[: content.rfind(b"\n") + 1]
    try:
        for line in complete.splitlines():
            record = dict(json.loads(line))
            if record.pop(CHECKSUM) != content_sha256(record):
                raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"'{path}' is damaged", "restore it from a copy, or choose another --run NAME") from None
    if complete != content:
        os.truncate(path, len(complete))
    lock = JournalFileOpenLock(str(path))
    Path(f"{path}.lock").unlink(missing_ok=True)  # left by a process that was killed while writing
    return JournalStorage(CheckedJournal(str(path), lock))
