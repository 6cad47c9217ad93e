"""The state of a training run ↔ named tensors and a small JSON object. Writes nothing; store.py does.

weights      canonical name → tensor                           "blocks.0.attention.query.weight"
optimizer    kind/canonical name → tensor                      "exp_avg/blocks.0.attention.query.weight"
components   name → state_dict of everything else that must survive a restart (`Stateful`)
the rest     step, random generators of every rank, validation loss, the settings that made it

Other state (EMA weights, a curriculum) is added to `Checkpointer.components`: its numbers go into state.json and its
tensors into a file of their own, NAME.safetensors.

With FSDP, capturing is a collective and the main process has the whole state, so any number of ranks can restore it.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from fledge.core.distributed import SINGLE_PROCESS, World, full_tensor, shard_like
from fledge.core.errors import UserError
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.lora import merge

Tensors = dict[str, Tensor]
MODEL, OPTIMIZER = "model", "optimizer"  # groups of tensors, and so the names of their files


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]:
        """JSON values and tensors, by name."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """An empty dict is the state of a new run."""


@dataclass(frozen=True)
class State:
    """A training run between two steps. Holds references, not copies: save it before the next step."""

    step: int
    weights: Tensors
    optimizer: Tensors
    rng: dict[str, str]
    components: dict[str, dict[str, Any]] = field(default_factory=dict)  # without their tensors
    component_tensors: dict[str, Tensors] = field(default_factory=dict)
    val_loss: float | None = None
    pending_hooks: dict[str, Any] | None = None  # StepResult whose hooks have not run; {}: those of step 0
    healthy: bool = True  # the last step made an update
    scheduled: bool = True  # saved at a fixed step; False: because of a clock or a signal, so never rolled back to
    weights_only: bool = False  # for looking back; training cannot continue from it
    provenance: dict[str, Any] | None = None  # settings, dataset and tokenizer that made it

    @property
    def groups(self) -> dict[str, Tensors]:
        """All tensors, by the name of their file."""
        if self.weights_only:
            return {MODEL: self.weights}
        return {MODEL: self.weights, OPTIMIZER: self.optimizer, **self.component_tensors}

    def component(self, name: str) -> dict[str, Any]:
        return {**self.components.get(name, {}), **self.component_tensors.get(name, {})}

    def with_groups(self, groups: dict[str, Tensors]) -> "State":
        rest = {name: tensors for name, tensors in groups.items() if name not in (MODEL, OPTIMIZER)}
        return replace(self, weights=groups[MODEL], optimizer=groups.get(OPTIMIZER, {}), component_tensors=rest)


def capture(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    step: int,
    world: World = SINGLE_PROCESS,
    components: Mapping[str, Stateful] | None = None,
    *,
    sharded: bool = False,
    weights_only: bool = False,
    **fields: Any,
) -> State:
    """The whole state on the main process; `sharded`: on each rank the shards that it holds."""
    states = {name: component.state_dict() for name, component in (components or {}).items()}
    tensors = {name: {k: v for k, v in state.items() if isinstance(v, Tensor)} for name, state in states.items()}
    values = {name: {k: v for k, v in state.items() if k not in tensors[name]} for name, state in states.items()}
    extra = {name: held for name, held in tensors.items() if held}
    held = ({}, {}) if weights_only else (_optimizer_tensors(model, optimizer), extra)
    fields["weights_only"] = weights_only
    state = State(step, weights_of(model), held[0], _rng(world), values, held[1], **fields)
    if sharded:
        return state
    return state.with_groups({name: _gather(held, world) for name, held in state.groups.items()})


def _gather(tensors: Tensors, world: World) -> Tensors:
    """Each tensor whole on the main process; the other ranks free it at once."""
    whole = ((name, full_tensor(tensor)) for name, tensor in tensors.items())
    return {name: tensor for name, tensor in whole if world.is_main}


def snapshot(state: State) -> State:
    """A copy on the CPU that training does not change."""

    def copied(tensors: Tensors) -> Tensors:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    return state.with_groups({name: copied(tensors) for name, tensors in state.groups.items()})


def state_bytes(state: State) -> int:
    return sum(tensor.nbytes for tensors in state.groups.values() for tensor in tensors.values())


def initial_state(weights: Tensors, seed: int) -> State:
    """Before the first step of a run that starts from given weights. Its first evaluation and sample are pending."""
    torch.manual_seed(seed)
    return State(0, weights, {}, _rng(SINGLE_PROCESS), pending_hooks={})


def restore(
    state: State,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    world: World = SINGLE_PROCESS,
    components: Mapping[str, Stateful] | None = None,
) -> None:
    """The next step is then bit for bit the one that would have followed.

    With another number of ranks than at capture time, the random generators stay as they are.
    """
    load_weights(model, state.weights)
    _load_optimizer(model, optimizer, state.optimizer)
    for name, component in (components or {}).items():
        component.load_state_dict(state.component(name))
    _set_rng(state.rng, world)


def seed_rng(seed: int, step: int, world: World) -> None:
    """Seed torch differently on each rank, or all would use the same dropout masks."""
    if step or not world.is_main:
        digest = hashlib.sha256(f"{seed} {step} {world.rank}".encode()).digest()
        seed = int.from_bytes(digest[:7])
    torch.manual_seed(seed)


def weights_of(model: GPT) -> Tensors:
    return model.weights()


def blank_weights(model: ModelConfig) -> Tensors:
    """The names and shapes of a model's weights, as tensors that take no memory."""
    with torch.device("meta"):
        return weights_of(GPT(model))


def plain_weights(model: ModelConfig, weights: Tensors, *, value_head: bool = False) -> Tensors:
    """The weights of a checkpoint, checked, for a model without adapters: see model/lora.py."""
    check_fit(blank_weights(model), weights)
    return merge(weights, model, value_head=value_head)


def load_weights(model: GPT, weights: Tensors) -> None:
    """Strict: missing, unexpected or misshapen ones are an error that names them."""
    wanted = weights_of(model)
    check_fit(wanted, weights)
    for name, tensor in wanted.items():
        tensor.copy_(shard_like(weights[name], tensor))


def check_fit(wanted: Tensors, weights: Tensors) -> None:
    """Raise UserError unless names and shapes are the same."""
    _refuse_difference("weights", wanted.keys(), weights.keys())
    for name, tensor in wanted.items():
        if tensor.shape != weights[name].shape:
            raise UserError(
                f"'{name}' has shape {list(weights[name].shape)}, and this model needs {list(tensor.shape)}",
                "the checkpoint belongs to a model of another shape",
            )


def _refuse_difference(what: str, wanted: Any, found: Any) -> None:
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        parts = [f"missing: {', '.join(missing[:5])}"] * bool(missing)
        parts += [f"unexpected: {', '.join(extra[:5])}"] * bool(extra)
        raise UserError(f"the checkpoint's {what} do not fit: {'; '.join(parts)}", "it belongs to another model")


def _names_by_group(model: GPT, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Optimizers number their parameters; a checkpoint names them, so that it fits any order of groups."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def _optimizer_tensors(model: GPT, optimizer: torch.optim.Optimizer) -> Tensors:
    names = list(chain.from_iterable(_names_by_group(model, optimizer)))
    state = optimizer.state_dict()["state"]
    return {f"{kind}/{names[i]}": tensor for i, kinds in state.items() for kind, tensor in kinds.items()}


def _load_optimizer(model: GPT, optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Strict: each trainable parameter has every kind of state that its group has (none before the first update)."""
    groups = _names_by_group(model, optimizer)
    held = [(kind, name) for kind, _, name in (key.partition("/") for key in tensors)]
    parameters = dict(model.named_parameters())
    kinds = dict.fromkeys(parameters, frozenset[str]())
    for group in groups:
        trainable = {name for name in group if parameters[name].requires_grad}
        kinds |= dict.fromkeys(trainable, frozenset(kind for kind, name in held if name in trainable))
    _refuse_difference("optimizer state", [f"{kind}/{name}" for name in kinds for kind in kinds[name]], tensors)
    for kind, name in held:
        tensor = tensors[f"{kind}/{name}"]
        if tensor.ndim and tensor.shape != parameters[name].shape:
            raise UserError(
                f"the optimizer state '{kind}/{name}' has shape {list(tensor.shape)}, not that of its weight",
                "restore the file from a copy",
            )

    def local_tensor(kind: str, name: str) -> Tensor:
        tensor = tensors[f"{kind}/{name}"]
        return shard_like(tensor, parameters[name]) if tensor.ndim else tensor

    states = ({kind: local_tensor(kind, name) for kind in kinds[name]} for group in groups for name in group)
    state = {i: kept for i, kept in enumerate(states) if kept}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _rng(world: World) -> dict[str, str]:
    """Base64 by name: "cpu" and "cuda" of the main process, "cpu/1", … of the other ranks."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    gathered = {kind: world.all_gather(state) for kind, state in states.items()}
    return {
        _rank_key(kind, rank): base64.b64encode(bytes(state.tolist())).decode()
        for kind, ranks in gathered.items()
        for rank, state in enumerate(ranks)
    }


def _rank_key(kind: str, rank: int) -> str:
    return f"{kind}/{rank}" if rank else kind


def _set_rng(states: dict[str, str], world: World) -> None:
    def tensor(kind: str) -> Tensor:
        return torch.tensor(list(base64.b64decode(states[_rank_key(kind, world.rank)])), dtype=torch.uint8)

    if sum(name.startswith("cpu") for name in states) != world.size:
        return
    torch.set_rng_state(tensor("cpu"))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensor("cuda"))
