"""The journal of a sweep: complete after a kill, damage refused, read by Optuna itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.sweep.space import SweepConfig, SweepPlan, read_space

optuna = pytest.importorskip("optuna")
from fledge.runs.names import JOURNAL  # noqa: E402
from fledge.sweep.study import FAILED, FINISHED, UNFINISHED, Study  # noqa: E402

RANGES = {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "optim.betas": [[0.9, 0.95], [0.9, 0.99]]}


def plan(steps: int = 8) -> SweepPlan:
    config = SweepConfig(preset="demo")
    shared = {"train": {"steps": steps}}
    return SweepPlan(config, read_space(RANGES), shared, {**shared, "space": RANGES, "sweep": {"seed": 1}})


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three trials: finished, failed, unfinished."""
    study = Study(tmp_path, plan())
    study.finish(study.ask(), 2.5, step=8)
    study.fail(study.ask(), "it diverged")
    study.ask()
    return study


def test_reopened_study_has_the_same_trials(study: Study, tmp_path: Path) -> None:
    again = Study(tmp_path, plan())
    assert again.trials() == study.trials()
    assert [trial.state for trial in again.trials()] == [FINISHED, FAILED, UNFINISHED]
    assert [trial.loss for trial in again.ranked()] == [2.5, None, None]
    assert (again.trials()[0].step, again.trials()[1].reason) == (8, "it diverged")
    assert again.plan.settings(again.trials()[2].settings).optim.betas[0] == 0.9


def test_study_killed_after_any_record_continues_the_same(study: Study, tmp_path: Path) -> None:
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        for torn in (b"", lines[count][:20]):
            folder = tmp_path / f"cut-{count}-{len(torn)}"
            folder.mkdir()
            (folder / JOURNAL).write_bytes(b"".join(lines[:count]) + torn)
            (folder / f"{JOURNAL}.lock").touch()
            cut = Study(folder, plan())
            for number, trial in enumerate(study.trials()):
                known = cut.trials()[number] if number < len(cut.trials()) else cut.ask()
                assert known.settings == trial.settings
                if known.state == UNFINISHED and trial.state == FINISHED:
                    cut.finish(known, 2.5, step=8)
                elif known.state == UNFINISHED and trial.state == FAILED:
                    cut.fail(known, "it diverged")
            assert cut.trials() == study.trials()
            assert Study(folder, plan()).trials() == study.trials()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b"2.5", b"1.5"),
        lambda content: content.replace(b'"op_code":4', b'"op_code":5', 1),
        lambda content: b"".join(content.splitlines(keepends=True)[:-1]) + b"\x00\xff\n",
        lambda content: b"[]\n" + content,
    ],
)
def test_damaged_journal_is_refused(study: Study, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    journal = tmp_path / JOURNAL
    journal.write_bytes(damage(journal.read_bytes()))
    with pytest.raises(UserError, match="is damaged"):
        Study(tmp_path, plan())


def test_study_of_other_settings_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.steps: 8 → 9"):
        Study(tmp_path, plan(steps=9))


def test_optuna_reads_the_journal(study: Study, tmp_path: Path) -> None:
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    loaded = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert loaded.best_value == 2.5
    assert all(json.loads(line)["sha256"] for line in (tmp_path / JOURNAL).read_text().splitlines())
