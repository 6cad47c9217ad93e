"""Statistics of each layer at some steps (`track.statistics`), as the metrics `stats/…`. They change no number.

    stats/grad_norm/blocks.0            norm of the gradient, before clipping
    stats/update_ratio/blocks.0         norm of the update, over the norm of the weights: about 1e-3 is usual
    stats/activation_rms/blocks.0       root mean square of what the block adds up to: its output
    stats/attention_entropy/blocks.0    of the attention weights in nats, mean over heads and tokens; 0: one token only

The first two are those of the update itself, for embedding, blocks, norm and head. The others come from a forward pass
over the first sequence of the batch, without dropout, by the plain model: also where the training step is compiled.
Of the weights that are trained: with LoRA, of the adapters. All ranks compute, and get the same numbers; with DDP and
FSDP activations are those of one sequence on each rank. An update that is skipped has no statistics.

Memory: a copy of the trained weights, when the activations of the step have been freed.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fledge.core.device import Machine
from fledge.core.distributed import is_dtensor, to_local
from fledge.core.errors import out_of_memory
from fledge.core.progress import notice
from fledge.model.attention import Attend, Attention, attention_weights, visible_blocks
from fledge.model.gpt import GPT
from fledge.training.parallel import LossModel
from fledge.training.step import StepResult, TrainStep

SMALLEST = 1e-12  # below it, a norm is not divided by


class LayerStatistics:
    """Measures at step 1 and at every `every`-th; never if that is 0."""

    def __init__(self, train_step: TrainStep, machine: Machine, every: int) -> None:
        self._train_step, self._machine, self._every = train_step, machine, every
        self._found: dict[str, float] = {}

    def is_due(self, step: int) -> bool:
        return bool(self._every) and (step % self._every == 0 or step == 1)

    @contextlib.contextmanager
    def around_update(self, result: StepResult) -> Iterator[None]:
        """The block updates the weights; their gradients are there, and clipped."""
        self._found = {}  # of a step that a rollback has undone before it was logged
        if not self.is_due(result.step) or (found := self._before(result.step)) is None:
            yield
            return
        activations, before = found
        yield
        with self._train_step.step_time.measure("statistics"):
            layers = trained_layers(self._train_step.model)
            clip = self._train_step.grad_clip or float("inf")
            unclip = max(1.0, (result.grad_norm + 1e-6) / clip)  # the inverse of what clip_grad_norm_ multiplies by
            gradients = [[to_local(p.grad) for p in layer if p.grad is not None] for layer in layers.values()]
            weights = [[to_local(p.detach()) for p in layer] for layer in layers.values()]
            updates = [
                [old.sub_(new) for new, old in zip(*pair, strict=True)] for pair in zip(weights, before, strict=True)
            ]
            norms = torch.stack([self._norms(gradients), self._norms(updates), self._norms(weights)], dim=1)
            self._found = activations
            for name, (gradient, update, weight) in zip(layers, norms.tolist(), strict=True):
                self._found[f"stats/grad_norm/{name}"] = gradient * unclip
                self._found[f"stats/update_ratio/{name}"] = update / max(weight, SMALLEST)

    def _before(self, step: int) -> tuple[dict[str, float], list[list[Tensor]]] | None:
        """Statistics of the activations, and a copy of the weights. None: not enough memory; training goes on."""
        layers = trained_layers(self._train_step.model)
        try:
            with self._train_step.step_time.measure("statistics"):
                activations = self._activations(step - 1)
                return activations, [[to_local(p.detach()).clone() for p in layer] for layer in layers.values()]
        except RuntimeError as error:
            if not out_of_memory(error) or self._machine.world.size > 1:  # the other ranks would wait
                raise
        notice(f"warning: not enough memory for the statistics of step {step}; they are left out")
        return None

    def metrics(self) -> dict[str, float]:
        """Of the update since the last call, if it was measured."""
        found, self._found = self._found, {}
        return found

    def _norms(self, layers: Sequence[Sequence[Tensor]]) -> Tensor:
        """Of the tensors of each layer; FSDP: of the shards of all ranks. [layers]"""
        none = torch.zeros((), device=self._machine.device)
        squares = torch.stack([sum((each.float().square().sum() for each in layer), none) for layer in layers])
        sharded = is_dtensor(self._train_step.model.embed.weight)
        return (self._machine.world.all_reduce_sum(squares) if sharded else squares).sqrt()

    def _activations(self, step: int) -> dict[str, float]:
        model, world = self._train_step.model, self._machine.world
        row = self._train_step.micro_batches(step)[0].map(lambda tensor: tensor[:1])
        model.eval()  # without dropout: no random number is drawn
        try:
            with torch.no_grad(), recorded(model) as (squares, entropies):
                LossModel(model, self._machine, self._train_step.objective)(row)
        finally:
            model.train()
        names = [f"blocks.{number}" for number in range(len(model.blocks))]
        means = [torch.stack(parts[name]).mean() for parts in (squares, entropies) for name in names]
        square, entropy = (world.all_reduce_sum(torch.stack(means)) / world.size).view(2, -1).tolist()
        return {
            **{f"stats/activation_rms/{name}": value**0.5 for name, value in zip(names, square, strict=True)},
            **{f"stats/attention_entropy/{name}": value for name, value in zip(names, entropy, strict=True)},
        }


def trained_layers(model: GPT) -> dict[str, list[nn.Parameter]]:
    """`embed`, `blocks.0`, …, `norm`, `head` → the weights that are trained. A tied head belongs to the embedding."""
    layers: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            first, second, *_ = name.split(".")
            layers[f"{first}.{second}" if first == "blocks" else first].append(parameter)
    return dict(layers)


Recorded = dict[str, list[Tensor]]  # name of a block → a scalar for each time it was called


@contextlib.contextmanager
def recorded(model: GPT) -> Iterator[tuple[Recorded, Recorded]]:
    """In the block, each block of the model records the mean square of its output and its attention entropy."""
    squares: Recorded = defaultdict(list)
    entropies: Recorded = defaultdict(list)
    handles: list[RemovableHandle] = []
    kept: list[tuple[Attention, Attend]] = []

    def record(name: str, block: nn.Module) -> None:
        attention = block.attention
        assert isinstance(attention, Attention)
        attend = attention.attend

        def with_entropy(
            q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int | None, dropout: float
        ) -> Tensor:
            entropies[name].append(attention_entropy(q, k, mask, window))
            return attend(q, k, v, mask, window, dropout)

        kept.append((attention, attend))
        attention.attend = with_entropy
        handles.append(block.register_forward_hook(lambda _, __, x: squares[name].append(x.float().square().mean())))

    try:
        for number, block in enumerate(model.blocks):
            record(f"blocks.{number}", block)
        yield squares, entropies
    finally:
        for handle in handles:
            handle.remove()
        for attention, attend in kept:
            attention.attend = attend


def attention_entropy(q: Tensor, k: Tensor, mask: Tensor | None, window: int | None) -> Tensor:
    """Mean over heads and tokens, in nats. For a block of queries at a time: all weights at once may not fit."""
    T, S = q.shape[2], k.shape[2]
    total = torch.zeros((), device=q.device)
    for start, stop, first, last in visible_blocks(T, S, window):
        seen = None if mask is None else mask[:, :, start:stop, first:last]
        weights = attention_weights(q[:, :, start:stop], k[:, :, first:last], seen, window).float()
        total -= weights.xlogy(weights).sum()
    return total / q[..., 0].numel()
