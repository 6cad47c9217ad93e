"""Run tasks with right and wrong answers on a run, and compare it with another."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fledge.core import device as machines
from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.progress import progress
from fledge.evaluation.likelihood import Scorer
from fledge.recipes.evaluate import load_checkpoint
from fledge.runs.evaluations import record_evaluation
from fledge.runs.methods import refuse_reward_model
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tasks.results import TaskDifference, TaskResult, compare_results
from fledge.tasks.run import run_tasks

KEPT = ("task", "metric", "score", "stderr", "low", "high", "items", "chance", "higher_is_better")  # in the run


@dataclass(frozen=True, kw_only=True)
class TaskResults:
    tasks: list[TaskResult]
    compared_with: str | None = None  # another run; `differences`: the scores of this run minus those of that one
    differences: list[TaskDifference] = field(default_factory=list)


def evaluate_tasks(
    run: str | LoadedCheckpoint | None,
    names: Sequence[str],
    *,
    runs: Path = Path("runs"),
    compare: str | LoadedCheckpoint | None = None,
    core_data: Path | None = None,
    task_folder: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    world: World = SINGLE_PROCESS,
) -> TaskResults:
    """In float32, so that a result does not depend on what else is in a batch. Several ranks share the work.

    names: `offline`, tasks of it, `core`, files of questions, tasks of lm-evaluation-harness (tasks/run.py).
    """
    machine = machines.choose_machine(machines.choose_device(device).value, "float32", world)

    def results(loaded: LoadedCheckpoint) -> list[TaskResult]:
        refuse_reward_model(loaded.run)
        model = loaded.model.to(machine.device)
        shown = f"tasks: {loaded.run.name}@{loaded.checkpoint.step}"
        scorer = Scorer(model, loaded.tokenizer, machine, lambda batches: progress(batches, shown))
        return run_tasks(names, scorer, core_data=core_data, task_folder=task_folder, limit=limit)

    loaded = load_checkpoint(run, runs)
    found = results(loaded)
    if world.is_main:
        kept = [{name: getattr(each, name) for name in KEPT} for each in found]
        record_evaluation(loaded.run, "tasks", loaded.checkpoint.step, {"tasks": kept, "limit": limit})
    if compare is None:
        return TaskResults(tasks=found)
    other = load_checkpoint(compare, runs)
    differences = compare_results(found, results(other))
    return TaskResults(tasks=found, compared_with=f"{other.run.name}@{other.checkpoint.step}", differences=differences)
