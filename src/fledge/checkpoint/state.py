"""The state of a training run ↔ named tensors and a small JSON object. Writes nothing; store.py does.

weights      canonical name → tensor                           "blocks.0.attention.query.weight"
optimiser    kind/canonical name → tensor                      "exp_avg/blocks.0.attention.query.weight"
progress     step, every rank's random generators, what the guard has seen, which batches were passed over, settings

Of a model that is spread over ranks, each takes part, and the first has the state, whole: what was captured by one
number of processes can be restored by any other.
"""

import base64
import hashlib
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fledge.core.distributed import SINGLE_PROCESS, World, full_tensor, shard_like
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """One moment of a run, whole. Holds references, not copies: save it before the next step."""

    step: int
    weights: Tensors
    optimizer: Tensors
    rng: dict[str, str]
    val_loss: float | None = None
    scaling: dict[str, float] | None = None  # what fp16 remembers
    micro_batch: int | None = None  # sequences, as many as had turned out to fit
    pending_hooks: dict[str, Any] | None = None  # StepResult whose hooks have not run; {}: those of step 0
    skipped: tuple[tuple[int, int], ...] = ()  # batches that are passed over
    compiled: bool | None = None  # False: the compiled code was found wrong, and the eager code trains
    guard: dict[str, Any] | None = None  # which losses are usual
    about: dict[str, Any] | None = None  # the settings, the text and the tokenizer that made it


def capture(
    model: GPT, optimizer: torch.optim.Optimizer, step: int, world: World = SINGLE_PROCESS, **progress: Any
) -> State:
    """Whole on the first rank."""
    state = capture_part(model, optimizer, step, world, **progress)
    return replace(state, weights=gathered(state.weights, world), optimizer=gathered(state.optimizer, world))


def capture_part(model: GPT, optimizer: torch.optim.Optimizer, step: int, world: World, **progress: Any) -> State:
    """On each rank what it holds."""
    return State(step, weights_of(model), _optimizer_tensors(model, optimizer), _rng(world), **progress)


def gathered(tensors: Tensors, world: World) -> Tensors:
    """Each tensor whole, on the first; on the others it is let go at once."""
    everything = ((name, full_tensor(tensor)) for name, tensor in tensors.items())
    return {name: tensor for name, tensor in everything if world.is_main}


def snapshot(state: State) -> State:
    """The same moment, in tensors of its own that training does not touch."""

    def copied(tensors: Tensors) -> Tensors:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    return replace(state, weights=copied(state.weights), optimizer=copied(state.optimizer))


def state_bytes(state: State) -> int:
    return sum(tensor.nbytes for tensor in (*state.weights.values(), *state.optimizer.values()))


def initial_state(weights: Tensors, seed: int) -> State:
    """A run that has weights before its first step. Nobody has looked at them, so that is pending_hooks."""
    torch.manual_seed(seed)
    return State(0, weights, {}, _rng(SINGLE_PROCESS), pending_hooks={})


def restore(state: State, model: GPT, optimizer: torch.optim.Optimizer, world: World = SINGLE_PROCESS) -> None:
    """Everything as it was; after this the next step is bit for bit the one that would have come.

    Only chance is another where there are more ranks, or fewer, than when it was captured: it stays as it is.
    """
    load_weights(model, state.weights)
    _load_optimizer(model, optimizer, state.optimizer)
    _set_rng(state.rng, world)


def seed_rng(seed: int, step: int, world: World) -> None:
    """Each rank has a chance of its own, or all would drop out the same."""
    if step or not world.is_main:
        digest = hashlib.sha256(f"{seed} {step} {world.rank}".encode()).digest()
        seed = int.from_bytes(digest[:7])
    torch.manual_seed(seed)


def weights_of(model: GPT) -> Tensors:
    """Each weight once: a tied head is its embedding and has no entry of its own."""
    return {name: p.detach() for name, p in model.named_parameters()}


def blank_weights(model: ModelConfig) -> Tensors:
    """The names and shapes of a model's weights, as tensors that take no memory."""
    with torch.device("meta"):
        return weights_of(GPT(model))


def load_weights(model: GPT, weights: Tensors) -> None:
    """All of them or none: a partial load is an error that names what does not fit."""
    wanted = weights_of(model)
    check_fit(wanted, weights)
    for name, tensor in wanted.items():
        tensor.copy_(shard_like(weights[name], tensor))


def check_fit(wanted: Tensors, weights: Tensors) -> None:
    """The same names and the same shapes, or an error that names what differs."""
    _refuse_difference("weights", wanted.keys(), weights.keys())
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"'{name}' has shape {list(weights[name].shape)}, and this model wants {list(tensor.shape)}",
                "the checkpoint belongs to a model of another shape",
            )


def _refuse_difference(what: str, wanted: Any, found: Any) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        parts = [f"missing: {', '.join(missing[:5])}"] * bool(missing) + [f"unexpected: {', '.join(extra[:5])}"] * bool(
            extra
        )
        raise UserError(f"the checkpoint's {what} do not fit: {'; '.join(parts)}", "it belongs to another model")


def _names_by_group(model: GPT, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Optimisers number their parameters; people, and other world sizes, name them."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def _optimizer_tensors(model: GPT, optimizer: torch.optim.Optimizer) -> Tensors:
    names = list(chain.from_iterable(_names_by_group(model, optimizer)))
    state = optimizer.state_dict()["state"]
    return {f"{kind}/{names[i]}": tensor for i, kinds in state.items() for kind, tensor in kinds.items()}


def _load_optimizer(model: GPT, optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """All of it or none: each parameter has every kind of memory that its group has (none before the first update)."""
    groups = _names_by_group(model, optimizer)
    held = [(kind, name) for kind, _, name in (key.partition("/") for key in tensors)]
    kinds: dict[str, frozenset[str]] = {}
    for group in groups:
        here = set(group)
        known = frozenset(kind for kind, name in held if name in here)
        kinds |= dict.fromkeys(group, known)
    _refuse_difference("optimiser state", [f"{kind}/{name}" for name in kinds for kind in kinds[name]], tensors)
    parameters = dict(model.named_parameters())
    for kind, name in held:
        tensor = tensors[f"{kind}/{name}"]
        if tensor.ndim and tensor.shape != parameters[name].shape:
            raise UserError(
                f"the optimiser's '{kind}/{name}' has shape {list(tensor.shape)}, not that of its weights",
                "restore the file",
            )

    def own(kind: str, name: str) -> Tensor:
        tensor = tensors[f"{kind}/{name}"]
        return shard_like(tensor, parameters[name]) if tensor.ndim else tensor

    memory = ({kind: own(kind, name) for kind in kinds[name]} for group in groups for name in group)
    state = {i: kept for i, kept in enumerate(memory) if kept}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _rng(world: World) -> dict[str, str]:
    """ "cpu" and "cuda" are the first rank's, "cpu/1" and so on those of the others."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    everyones = {kind: world.all_gather(state) for kind, state in states.items()}
    return {
        _of_rank(kind, rank): base64.b64encode(bytes(state.tolist())).decode()
        for kind, ranks in everyones.items()
        for rank, state in enumerate(ranks)
    }


def _of_rank(kind: str, rank: int) -> str:
    return f"{kind}/{rank}" if rank else kind


def _set_rng(states: dict[str, str], world: World) -> None:
    def tensor(kind: str) -> Tensor:
        return torch.tensor(list(base64.b64decode(states[_of_rank(kind, world.rank)])), dtype=torch.uint8)

    if sum(name.startswith("cpu") for name in states) != world.size:
        return
    torch.set_rng_state(tensor("cpu"))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensor("cuda"))
