"""A process that saves and prunes, as between two steps, and nothing else.

lay_down, save_and_prune          a new checkpoint beside others
lay_down_pending, save_again      one in place of another of its step, which was saved before its hooks had run
"""

from dataclasses import replace
from pathlib import Path

import torch

from fledge.checkpoint import store, thinning
from fledge.checkpoint.state import State
from fledge.core.errors import to_user_error
from fork_server import Marks

OLD, NEW = (5, 10, 20, 30), 40
STRIPPED = 10  # of this step the weights are kept
KEEP = 2


def state_at(step: int) -> State:
    """Small, and another for every step. The best is not the newest, so that prune has to think."""
    draw = torch.Generator().manual_seed(step)
    weights = {name: torch.randn(3, 5, generator=draw) for name in ("embed.weight", "head.weight")}
    optimizer = {f"exp_avg/{name}": torch.randn(3, 5, generator=draw) for name in weights}
    losses = {5: 4.0, 10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5}
    return State(step, weights, optimizer, {"cpu": "AAAA"}, val_loss=losses[step])


def lay_down(folder: Path) -> None:
    """The checkpoints that are there already; the first is due to go, the second to lose its optimizer state."""
    folder.mkdir(parents=True)
    for step in OLD:
        store.save(folder, state_at(step))


def save_and_prune(_: Marks, folder: Path) -> int:
    """Where it fails, with the last words that the command line would have."""
    try:
        store.save(folder, state_at(NEW))
        thinning.prune(folder, KEEP, history=(STRIPPED,))
    except OSError as error:
        mistake = to_user_error(error)
        print(f"error: {mistake.message}\nhint: {mistake.hint}")
        return 2
    return 0


def lay_down_pending(folder: Path) -> None:
    store.save(folder, replace(state_at(NEW), pending_hooks={}))


def save_again(marks: Marks, folder: Path) -> int:
    """As `fledge resume` does: what a killed process has left is put in order first."""
    thinning.remove_leftovers(folder)
    return save_and_prune(marks, folder)
