"""Run tasks by name: the offline suite, CORE, files of questions, and every task of lm-evaluation-harness.

offline, agreement, …     offline.py: needs no download
core, core/hellaswag      core.py: needs --core-data
my-questions.jsonl        multiple_choice.py
hellaswag, my-task        harness.py: needs the extra [lm-eval], and usually the network
"""

from collections.abc import Sequence
from pathlib import Path

from fledge.core.errors import UserError, nearest
from fledge.evaluation.likelihood import Scorer
from fledge.tasks import core, offline
from fledge.tasks.multiple_choice import PER_BYTE, Question, encode_all, read_questions, score_items
from fledge.tasks.results import TaskResult

QUESTIONS = (".jsonl", ".ndjson")
NAMES = [offline.SUITE, *offline.OFFLINE_TASKS, core.SUITE, *core.CORE_TASKS]


def run_tasks(
    names: Sequence[str],
    scorer: Scorer,
    *,
    core_data: Path | None = None,
    task_folder: Path | None = None,
    limit: int | None = None,
) -> list[TaskResult]:
    """The results: of the offline suite, of files, of CORE, of the harness.

    limit: the first items only, of each task but those of the offline suite.
    """
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} leaves no items", "give 1 or more: --limit N")
    suite = offline.OFFLINE_TASKS
    wanted = list(dict.fromkeys(each for name in names for each in (suite if name == offline.SUITE else [name])))
    files = {name: read_questions(Path(name))[:limit] for name in wanted if name.endswith(QUESTIONS)}
    of_core = [name for name in wanted if name == core.SUITE or name.startswith(f"{core.SUITE}/")]
    others = [name for name in wanted if name not in (*suite, *files, *of_core)]
    found = _run_harness(others, scorer, task_folder, limit) if others else []  # first, as it may not know a name
    found = [*(core.run_core(of_core, scorer, core_data, limit) if of_core else []), *found]
    found = [*(run_questions(Path(name).stem, scorer, questions) for name, questions in files.items()), *found]
    return [*(offline.run_offline(name, scorer) for name in wanted if name in suite), *found]


def run_questions(name: str, scorer: Scorer, questions: Sequence[Question]) -> TaskResult:
    items, skipped = encode_all(scorer, questions)
    return score_items(name, scorer, items, PER_BYTE, skipped=skipped)


def _run_harness(names: list[str], scorer: Scorer, folder: Path | None, limit: int | None) -> list[TaskResult]:
    try:
        from fledge.tasks.harness import run_harness
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "fledge":
            raise
        hint = "; for tasks of lm-evaluation-harness: pip install 'fledge[lm-eval]'"
        known = nearest(names[0], NAMES) or f"the tasks of fledge: {', '.join(NAMES[:12])}, …"
        raise UserError(f"unknown task '{names[0]}'", known + hint) from None
    return run_harness(names, scorer, folder, limit, NAMES)
