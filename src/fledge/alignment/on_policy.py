"""Batches of online methods: an iteration generates episodes, and a few updates learn from them.

    global batch number  →  (iteration, update)      a pure function: `UpdatePlan`
    iteration            →  prompts, seeds           pure functions of the run's seed
    prompts              →  answers → rewards → old log-probabilities → what the method adds (advantages, …)
    update               →  some rows of these       all of them once in each epoch, in pseudo-random order

The tensors of the current iteration are part of a checkpoint: an iteration cannot be generated again after an update.
Each rank generates and scores its share of the prompts; then all ranks hold all episodes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from fledge.alignment.config import RolloutConfig
from fledge.alignment.rollout import Answer, Generator, Prompt, encode_prompts, episode_seed, to_batch, width
from fledge.alignment.scoring import clip, score, warnings
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.batches.sampler import shuffled
from fledge.core.config import divisors, listed_divisors
from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.core.progress import notice
from fledge.inference.request import Sampling
from fledge.losses.cross_entropy import IGNORE
from fledge.losses.logprobs import token_logprobs
from fledge.model.gpt import GPT, HeadLoss
from fledge.training.setup import initial_micro_batch

Numbers = Mapping[str, float]
Each = Callable[[Callable[[Batch], Tensor]], Tensor]


class Prepare(Protocol):
    """What a method adds to the episodes of an iteration: tensors for `Batch.extra`, and metrics.

    batch: all episodes; extra has old_logprobs [N, T], rewards and truncated [N]. Row = prompt · samples + sample.
    each: applies a function to all rows, in pieces of the size of a micro-batch, and on all ranks together:
          each(lambda piece: …) → [N, …]
    """

    def __call__(self, batch: Batch, each: Each, /) -> tuple[Mapping[str, Tensor], Numbers]: ...


@dataclass(frozen=True)
class UpdatePlan:
    """Which rows of which iteration make up global batch n."""

    rows: int  # episodes of an iteration
    batch: int  # of them in an update
    epochs: int
    seed: int

    def __post_init__(self) -> None:
        if self.rows % self.batch:
            raise UserError(
                f"train.batch = {self.batch} does not divide the {self.rows} answers of a rollout",
                f"use one of {listed_divisors(self.rows)}",
            )

    @property
    def updates(self) -> int:
        """Updates of an iteration."""
        return self.epochs * (self.rows // self.batch)

    def locate(self, number: int) -> tuple[int, int]:
        """Global batch → iteration, and the update in it."""
        return divmod(number, self.updates)

    def indices(self, iteration: int, update: int) -> Tensor:
        """The rows of an update [batch]."""
        epoch, piece = divmod(update, self.rows // self.batch)
        first = (iteration * self.epochs + epoch) * self.rows + piece * self.batch
        return torch.from_numpy(shuffled(first, self.batch, self.rows, self.seed))


class OnPolicyBatches:
    """`MicroBatches` of an online method, and the state of its current iteration (`Stateful`)."""

    def __init__(
        self,
        setup: AlignSetup[Any],
        rollout: RolloutConfig,
        model: GPT,
        prepare: Prepare,
        *,
        samples: int = 1,
        epochs: int = 1,
    ) -> None:
        """samples: answers to each prompt. epochs: how often an update sees each episode."""
        settings, self.machine, self.world = setup.settings, setup.machine, setup.machine.world
        check_ranks(rollout.prompts, settings.train.batch, self.world)
        assert setup.reward is not None
        self.config, self.model, self.samples, self.reward, self._prepare = (
            rollout,
            model,
            samples,
            setup.reward,
            prepare,
        )
        self.plan = UpdatePlan(rollout.prompts * samples, settings.train.batch, epochs, settings.train.seed)
        self.prompts = encode_prompts(setup.train, setup.template, settings.model.context - rollout.max_tokens + 1)
        self.generate = Generator(rollout, self.machine, setup.tokenizer, setup.template.stop_tokens)
        self.policy_logprobs = partial(answer_logprobs, machine=self.machine, temperature=rollout.temperature)
        self.size = initial_micro_batch(settings, self.machine)
        self.iteration: int | None = None  # whose episodes these are:
        self.episodes: Batch | None = None
        self._numbers: dict[str, float] = {}
        self._warnings: list[str] = []

    def __call__(self, number: int) -> list[Batch]:
        """The micro-batches of this rank. The first update of an iteration generates its episodes."""
        iteration, update = self.plan.locate(number)
        if iteration != self.iteration or self.episodes is None:
            try:
                self._begin(iteration)
            except BaseException:
                self.episodes = None  # not complete
                raise
        assert self.episodes is not None
        return self._pieces(self.episodes, self.plan.indices(iteration, update))

    def updates(self, **tensors: Tensor) -> Iterator[list[Batch]]:
        """The micro-batches of all updates of this iteration, with these tensors [N, …] in `extra`."""
        assert self.episodes is not None
        assert self.iteration is not None
        episodes = replace(self.episodes, extra={**self.episodes.extra, **tensors})
        for update in range(self.plan.updates):
            yield self._pieces(episodes, self.plan.indices(self.iteration, update))

    def _pieces(self, episodes: Batch, indices: Tensor) -> list[Batch]:
        """The share of this rank."""
        own = indices.chunk(self.world.size)[self.world.rank].to(episodes.inputs.device)
        return episodes.map(lambda tensor: tensor[own]).split(self.size)

    def _begin(self, iteration: int) -> None:
        was_training = self.model.training
        self.model.eval()
        self.iteration, self.episodes = iteration, self._generate(iteration)
        self._add(old_logprobs=self.each(partial(self.policy_logprobs, self.model)))
        self._numbers = rollout_metrics(self.episodes)
        rewards = self.episodes.extra["rewards"]
        self._warnings = warnings(float(rewards.mean()), standard_deviation(rewards))
        found, numbers = self._prepare(self.episodes, self.each)
        self._add(**found)
        self._numbers |= numbers
        self.model.train(was_training)

    def _add(self, **tensors: Tensor) -> None:
        assert self.episodes is not None
        self.episodes = replace(self.episodes, extra={**self.episodes.extra, **tensors})

    def _generate(self, iteration: int) -> Batch:
        """The episodes of all ranks. A rank has neighbouring prompts."""
        share = self.config.prompts // self.world.size
        places = range(self.world.rank * share, (self.world.rank + 1) * share)
        drawn = self.drawn(iteration)
        chosen = [self.prompts[drawn[place]] for place in places for _ in range(self.samples)]
        seeds = [
            episode_seed(self.plan.seed, iteration, place, sample) for place in places for sample in range(self.samples)
        ]
        ids = [prompt.ids for prompt in chosen]
        samplings = [Sampling(temperature=self.config.temperature, seed=seed) for seed in seeds]
        answers = self.generate(self.model, ids, samplings)
        rewards = clip(self._score(chosen, answers), self.config.reward_clip)
        batch = to_batch(ids, answers, rewards, self.world.all_reduce_max(width(ids, answers)))
        return batch.map(lambda tensor: torch.cat(self.world.all_gather(tensor))).to(self.machine.device)

    def _score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
        """An error on one rank ends all."""
        rewards, error = list[float](), None
        try:
            for prompt, answer in zip(prompts, answers, strict=True):
                rewards.append(score(self.reward, prompt.text, answer.text, prompt.target))
        except UserError as found:
            error = found
        if message := self.world.first_message(error.message if error else ""):
            raise error or UserError(message, "another process shows more")
        return rewards

    def drawn(self, iteration: int) -> list[int]:
        """Which prompts: each of them once in an epoch of the data."""
        count = self.config.prompts
        found: list[int] = shuffled(iteration * count, count, len(self.prompts), self.plan.seed).tolist()
        return found

    def each(self, fn: Callable[[Batch], Tensor]) -> Tensor:
        """fn for all rows, in the pieces of the first epoch: there it has the bits that an update computes. [N, …]"""
        assert self.iteration is not None
        assert self.episodes is not None
        found: Tensor | None = None
        for update in range(self.plan.updates // self.plan.epochs):
            indices = self.plan.indices(self.iteration, update)
            part = torch.cat([fn(piece) for piece in self._pieces(self.episodes, indices)])
            rows = torch.cat(self.world.all_gather(part.contiguous()))
            found = rows.new_empty(self.plan.rows, *rows.shape[1:]) if found is None else found
            found[indices.to(rows.device)] = rows
        assert found is not None
        return found

    def metrics(self) -> dict[str, float]:
        """Of the current iteration."""
        return dict(self._numbers)

    def warnings(self) -> list[str]:
        """Those that have come since the last call."""
        new, self._warnings = self._warnings, []
        return new

    def shrink(self) -> None:
        smaller = divisors(self.plan.batch // self.world.size, at_most=self.size // 2)
        if not smaller or self.world.size > 1:
            raise UserError(
                f"there is not enough memory for {self.size} sequences at once",
                "use a smaller --train.micro_batch, a smaller model, or shorter answers: --rollout.max_tokens",
            )
        self.size = smaller[-1]
        notice(f"not enough memory: using {self.size} sequences at once from now on; the global batch is unchanged")

    def state_dict(self) -> dict[str, Any]:
        if self.episodes is None:
            return {"size": self.size}
        tensors = {"inputs": self.episodes.inputs, "targets": self.episodes.targets, **self.episodes.extra}
        return {"size": self.size, "iteration": self.iteration, "metrics": self._numbers, **tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size = state.get("size", self.size)
        self.iteration, self._numbers, self.episodes = state.get("iteration"), state.get("metrics", {}), None
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if tensors:
            self.episodes = Batch(tensors.pop("inputs"), tensors.pop("targets"), tensors).to(self.machine.device)


def check_ranks(prompts: int, batch: int, world: World) -> None:
    for name, count in (("rollout.prompts", prompts), ("train.batch", batch)):
        if count % world.size:
            raise UserError(
                f"{name} = {count} is not divisible by {world.size} processes",
                f"start {listed_divisors(count)} processes, or make it a multiple of {world.size}",
            )


@torch.no_grad()
def answer_logprobs(model: GPT, batch: Batch, *, machine: Machine, temperature: float) -> Tensor:
    """Log-probabilities of the answers' tokens under the distribution that they are drawn from. [B, T], 0 elsewhere"""
    with machine.autocast():
        return model.forward_loss(batch.inputs, batch.targets, policy_logprobs(temperature))


def policy_logprobs(temperature: float) -> HeadLoss:
    return token_logprobs if temperature == 1 else partial(token_logprobs, temperature=temperature)


def standard_deviation(rewards: Tensor) -> float:
    """In float32, that of equal numbers is not 0."""
    return float(rewards.double().std(correction=0))


def rollout_metrics(episodes: Batch) -> dict[str, float]:
    """Entropy is estimated: minus the mean log-probability of the tokens that were drawn."""
    extra, valid = episodes.extra, episodes.targets != IGNORE
    rewards, known = extra["rewards"], extra["engine_logprobs"] != 0
    difference = (extra["old_logprobs"] - extra["engine_logprobs"]).abs() * known
    return {
        "rollout/reward": float(rewards.mean()),
        "rollout/reward_std": standard_deviation(rewards),
        "rollout/length": float(valid.sum(1).float().mean()),
        "rollout/entropy": float(-extra["old_logprobs"].sum() / valid.sum()),
        "rollout/truncated": float(extra["truncated"].mean()),
        "rollout/engine_difference": float(difference.sum() / known.sum().clamp(min=1)),
    }
