"""docs/scale.md: its formulas against what ranks really hold, send and save; its tables against the script's."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fledge.checkpoint import run as run_folder
from fledge.recipes.settings import settle

HOME = Path(__file__).parents[3]
SCALE = runpy.run_path(str(HOME / "bench" / "scale.py"))

# Every rank looks at its third step, and under fsdp follows the memory of its fourth with torch's own tracker.
LOOK = """
import json, os
from pathlib import Path
from torch import Tensor
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from fledge.base.company import is_spread, own_part
from fledge.train.step import Stepper

usual, found = Stepper._attempt, {}
whole = lambda tensors: sum(own_part(t).nbytes for t in tensors)

class Collectives(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":  # what comes out, what goes in; single numbers are left out
            sizes = [t.nbytes for t in tree_leaves(args) if isinstance(t, Tensor) and t.ndim]
            found["sent"] += [(func.name(), sizes)] * bool(sizes)
        return func(*args, **(kwargs or {}))

def look(self, step):
    weights = list(self.model.parameters())
    if step == 2:
        found.update(sent=[], tensors=len(weights))
        with Collectives():
            result = usual(self, step)
        found["weights"] = whole(weights)
        found["gradients"] = whole(p.grad for p in weights)
        found["optimiser"] = whole(t for kept in self.optimizer.state.values() for t in kept.values() if t.ndim)
        return result
    if step < 3:
        return usual(self, step)
    if is_spread(weights[0]):
        with FSDPMemTracker(self.model, self.optimizer) as tracker:
            result = usual(self, step)
        [peak] = tracker.get_tracker_snapshot("peak").values()
        found["peak"] = {getattr(kind, "name", kind): size for kind, size in peak.items()}
    else:
        result = usual(self, step)
    Path(os.environ["FLEDGE_CACHE"], f"rank-{self.company.rank}.json").write_text(json.dumps(found))
    return result

Stepper._attempt = look
"""
SHAPE = ("--model.n_layer", "3", "--model.n_embd", "64", "--model.n_head", "4", "--train.batch", "16")
STEPS = ("--train.steps", "4", "--train.eval_every", "0", "--train.sample_every", "0", "--train.save_every", "4")


def look_at(home: Any, together: Callable[..., str], way: str, size: int, *words: str) -> tuple[Any, list[Any]]:
    """What the script plans, and what each rank found."""
    script = home.folder / "look.py"
    script.write_text(LOOK)
    settings = ("--train.dtype", "bfloat16", "--train.micro_batch", "4", "--train.parallel", way)
    together(home.training("bird", *SHAPE, *STEPS, *settings, *words), size, first=str(script))
    model = settle(run_folder.find("bird", home.runs).config()).model
    found = [json.loads((home.folder / "cache" / f"rank-{rank}.json").read_text()) for rank in range(size)]
    return SCALE["Plan"](model, way, size, 4, 16), found


def saved_bytes(run: Path) -> int:
    """Of tensors: without the headers that name them."""
    files = list((run / "checkpoints" / "step-00000004").glob("*.safetensors"))
    return sum(path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little") for path in files)


def carried(found: Any) -> dict[str, int]:
    names = {"c10d::allreduce_": "all-reduce", "c10d::_allgather_base_": "all-gather"}
    names["c10d::_reduce_scatter_base_"] = "reduce-scatter"
    sums: dict[str, int] = {}
    for name, sizes in found["sent"]:
        sums[names[name]] = sums.get(names[name], 0) + max(sizes)
    return sums


@pytest.mark.parametrize(("way", "size"), [("ddp", 1), ("ddp", 2), ("fsdp", 2), ("fsdp", 4)])
def test_ranks_hold_send_and_save_what_the_formulas_say(
    home: Any, together: Callable[..., str], way: str, size: int
) -> None:
    plan, found = look_at(home, together, way, size, "--train.sharded_save", str(size == 4).lower())
    assert plan.micro_batches == 4 // size
    held = plan.held()
    for rank in found:
        print(rank.get("peak"), held, carried(rank), plan.carried())
