"""docs/scale.md: its formulas against what ranks really hold, send and save; its tables against bench/scale.py."""

import json
import runpy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fledge.model.flops import parameter_count
from fledge.runs.run_folder import open_run
from fledge.settings.pipeline import validated

HOME = Path(__file__).parents[3]
SCALE = runpy.run_path(str(HOME / "bench" / "scale.py"))

# Every rank runs this first: it records its memory and its collectives in the third step.
RECORD = """
import json, os
from pathlib import Path
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from fledge.core.distributed import to_local
from fledge.training.parallel import LossModel
from fledge.training.step import TrainStep

attempt, forward, found = TrainStep._attempt, LossModel.forward, {}

def size(tensors):
    return sum(to_local(tensor).nbytes for tensor in tensors)

class Collectives(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":  # output and input tensors; single numbers are left out
            sizes = [t.nbytes for t in tree_leaves(args) if isinstance(t, Tensor) and t.ndim]
            found["sent"] += [(func.name(), sizes)] * bool(sizes)
        return func(*args, **(kwargs or {}))

def gathered(model):
    groups = [part._get_fsdp_state()._fsdp_param_group for part in (*model.blocks, model)]
    return [param._unsharded_param for group in groups for param in group.fsdp_params]

def recording_forward(self, batch):
    if "sent" not in found:
        return forward(self, batch)
    sharded = hasattr(self.model, "_get_fsdp_state")
    own = [*self.model.parameters(), *self.model.buffers()] if not sharded else [*self.model.buffers()]
    if sharded:
        found["between"] = size(weight.grad for weight in gathered(self.model) if weight.grad is not None)
        def record(*_):
            found["gathered"] = sum(weight.untyped_storage().nbytes() for weight in gathered(self.model))
        handle = self.model.blocks[-1].mlp.register_forward_hook(record)
    kept = []
    def keep(tensor):
        kept.append(tensor.untyped_storage())
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward(self, batch)
    once = {storage.data_ptr(): storage.nbytes() for storage in kept}
    found["kept"] = sum(once.values()) - sum(once.get(t.untyped_storage().data_ptr(), 0) for t in own)
    if sharded:
        handle.remove()
    return result

def recording_attempt(self, step):
    if step != 2:
        return attempt(self, step)
    weights = list(self.model.parameters())
    found.update(sent=[], tensors=len(weights))
    with Collectives():
        result = attempt(self, step)
    found["weights"], found["gradients"] = size(weights), size(weight.grad for weight in weights)
    state = [tensor for kinds in self.optimizer.state.values() for tensor in kinds.values()]
    found["optimizer"] = size(tensor for tensor in state if tensor.ndim)
    Path(os.environ["FLEDGE_CACHE"], f"rank-{self.world.rank}.json").write_text(json.dumps(found))
    found.clear()
    return result

TrainStep._attempt, LossModel.forward = recording_attempt, recording_forward
"""
SHAPE = (
    *("--model.attention", "sdpa", "--model.n_layer", "3", "--model.n_embd", "64"),
    *("--model.n_head", "4", "--model.vocab_size", "32"),
)
STEPS = ("--train.steps", "3", "--train.eval_every", "0", "--train.sample_every", "0", "--train.dtype", "bfloat16")
BATCH = ("--train.batch", "16", "--train.micro_batch", "4")
KINDS = {
    "c10d::allreduce_": "all-reduce",
    "c10d::_allgather_base_": "all-gather",
    "c10d::_reduce_scatter_base_": "reduce-scatter",
}


def checkpoint_bytes(run: Path) -> int:
    """Bytes of all tensors, without the headers of the files."""
    files = list((run / "checkpoints" / "step-00000003").glob("*.safetensors"))
    return sum(path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little") for path in files)


@pytest.mark.parametrize(("strategy", "size"), [("ddp", 1), ("ddp", 2), ("fsdp", 2), ("fsdp", 4)])
def test_memory_collectives_and_checkpoint_match_the_formulas(
    home: Any, together: Callable[..., str], strategy: str, size: int
) -> None:
    script = home.folder / "record.py"
    script.write_text(RECORD)
    parallel = ("--train.parallel", strategy, "--train.sharded_save", str(size == 4).lower())
    together(home.training("bird", *SHAPE, *STEPS, *BATCH, *parallel), size, first=str(script))
    model = validated(open_run("bird", home.runs).config()).model
    plan = SCALE["Plan"](model, strategy, size, micro_batch=4, batch=16)
    assert plan.micro_batches == 4 // size
    held = plan.memory()
    block = 4 * (parameter_count(replace(model, n_layer=model.n_layer + 1)) - parameter_count(model))
    for rank in range(size):
        found = json.loads((home.folder / "cache" / f"rank-{rank}.json").read_text())
        assert (found["weights"], found["optimizer"]) == (held["weights"], held["optimizer"])
        assert found["gradients"] == found["weights"]
        assert found["kept"] == pytest.approx(held["bf16 copies"] + held["activations"], rel=0.02)
        collectives, exchanged = Counter[str](), 0
        for name, sizes in found["sent"]:
            collectives[KINDS[name]] += max(sizes)
            exchanged += max(sizes) - min(sizes)  # full tensor less own shard: received from, or sent to, other ranks
        assert collectives == (plan.collectives() if size > 1 else {})
        if strategy == "fsdp":
            assert exchanged == plan.sent()
            assert found["between"] == (held["gradients"] if plan.micro_batches > 1 else 0)
            assert found["gathered"] == held["gathered"] - block, "the next block may not have been prefetched yet"
    assert checkpoint_bytes(home.runs / "bird") == plan.checkpoint() + 4 * found["tensors"], (
        "with the count of steps of each"
    )


def test_page_holds_the_tables_of_the_script() -> None:
    page = (HOME / "docs" / "scale.md").read_text(encoding="utf-8")
    for table in SCALE["TABLES"]:
        assert table() in page
