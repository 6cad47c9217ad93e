"""The built-in tasks by name. `reasoning-gym:NAME` is a task of the package reasoning-gym."""

from fledge.alignment.tasks import addition, instructions, letters, library, style
from fledge.alignment.tasks.base import Task
from fledge.alignment.tasks.gym import PREFIX, gym_task
from fledge.core.errors import UserError, nearest

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(addition.TASK, letters.COUNTING, letters.SPELLING, instructions.TASK),
        *(library.TASK, style.STYLE, style.HACKABLE),
    )
}


def is_task(name: str) -> bool:
    return name in TASKS or name.startswith(PREFIX)


def find_task(name: str) -> Task:
    if name.startswith(PREFIX):
        return gym_task(name.removeprefix(PREFIX))
    if name in TASKS:
        return TASKS[name]
    known = ", ".join([*TASKS, f"{PREFIX}NAME"])
    raise UserError(f"there is no task '{name}'", nearest(name, TASKS) or f"the tasks are: {known}")
