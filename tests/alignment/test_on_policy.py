"""On-policy batches: which rows an update sees, the state of an iteration, and rewards of any kind."""

import copy
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aligning import make_setup, policy, questions
from fledge.alignment.on_policy import OnPolicyBatches, UpdatePlan
from fledge.alignment.rollout import episode_seed
from fledge.batches.loader import Batch
from fledge.core.distributed import World
from fledge.core.errors import UserError
from fledge.losses.cross_entropy import IGNORE
from fledge.losses.logprobs import token_logprobs
from fledge.model.gpt import GPT


def nothing(_batch: Batch, _each: Callable[[Callable[[Batch], Tensor]], Tensor]) -> tuple[Mapping[str, Tensor], Any]:
    return {}, {}


def make(
    layer: Any = None, model: GPT | None = None, *, samples: int = 2, epochs: int = 2, **options: Any
) -> OnPolicyBatches:
    setup = make_setup(layer=layer, **options)
    model = policy(setup) if model is None else model
    return OnPolicyBatches(setup, setup.settings.rollout, model, nothing, samples=samples, epochs=epochs)


def perturb(model: GPT) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**40), st.integers(0, 50))
def test_each_epoch_sees_every_episode_once(pieces: int, batch: int, epochs: int, seed: int, iteration: int) -> None:
    plan = UpdatePlan(pieces * batch, batch, epochs, seed)
    assert plan.updates == epochs * pieces
    assert plan.locate(iteration * plan.updates + 1) == ((iteration, 1) if plan.updates > 1 else (iteration + 1, 0))
    for epoch in range(epochs):
        rows = [plan.indices(iteration, epoch * pieces + piece).tolist() for piece in range(pieces)]
        assert all(len(each) == batch for each in rows)
        assert sorted(chain.from_iterable(rows)) == list(range(pieces * batch))


def test_batch_must_divide_the_rollout() -> None:
    with pytest.raises(UserError, match="does not divide the 8 answers") as caught:
        make({"train": {"batch": 3}})
    assert "1, 2, 4, 8" in caught.value.hint


def test_every_prompt_is_drawn_once_in_an_epoch_of_the_data() -> None:
    batches = make({"rollout": {"prompts": 5}, "train": {"batch": 5}}, samples=1)
    assert sorted(batches.drawn(0) + batches.drawn(1)) == list(range(10))
    assert batches.drawn(0) == make({"rollout": {"prompts": 5}, "train": {"batch": 5}}, samples=1).drawn(0)
    assert batches.drawn(0) != batches.drawn(2)


def test_more_prompts_than_there_are_examples() -> None:
    batches = make({"rollout": {"prompts": 8}}, examples=questions(3))
    assert sorted(batches.drawn(0)[:3]) == [0, 1, 2]
    assert batches(0)


def test_seeds_of_episodes_differ() -> None:
    places = [(s, i, p, k) for s in range(3) for i in range(4) for p in range(5) for k in range(3)]
    assert len({episode_seed(*place) for place in places}) == len(places)


@pytest.mark.parametrize("micro_batch", [None, 2, 1])
def test_ratio_is_exactly_one_at_the_first_update(micro_batch: int | None) -> None:
    batches = make({"train": {"micro_batch": micro_batch}} if micro_batch else None)
    batches.model.train()
    for update in range(2):  # of the first epoch: no update was made in between
        for batch in batches(update):
            logprobs = batches.model.forward_loss(batch.inputs, batch.targets, token_logprobs)
            assert torch.equal(logprobs, batch.extra["old_logprobs"])
            assert bool((logprobs[batch.targets != IGNORE] < 0).all())


def test_engine_and_model_agree() -> None:
    batches = make()
    batches(0)
    assert 0 <= batches.metrics()["rollout/engine_difference"] < 1e-5


def test_iteration_generates_once_and_with_the_weights_of_its_beginning() -> None:
    batches = make(epochs=2)
    first = [batch for number in range(4) for batch in batches(number)]
    perturb(batches.model)
    again = [batch for number in range(4) for batch in batches(number)]
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    batches(4)
    assert batches.iteration == 1


def test_resumed_in_the_middle_of_an_iteration_has_the_same_bits() -> None:
    batches = make()
    batches(0)
    state, model = batches.state_dict(), copy.deepcopy(batches.model)
    perturb(batches.model)
    perturb(model)
    resumed = make(model=model)
    resumed.load_state_dict({name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()})
    for number in range(6):  # the rest of this iteration, and the next one
        for ours, theirs in zip(batches(number), resumed(number), strict=True):
            assert torch.equal(ours.inputs, theirs.inputs)
            assert torch.equal(ours.targets, theirs.targets)
            assert ours.extra.keys() == theirs.extra.keys()
            assert all(torch.equal(ours.extra[name], theirs.extra[name]) for name in ours.extra)
        assert batches.metrics() == resumed.metrics()


def test_empty_state_is_that_of_a_new_run() -> None:
    batches = make()
    first = batches(0)
    batches.load_state_dict({})
    assert batches.episodes is None
    assert torch.equal(batches(0)[0].inputs, first[0].inputs)


def test_skipped_batches_lead_to_other_prompts() -> None:
    """After a rollback the number is that of a later batch."""
    batches = make(epochs=1)
    prompts = batches(0)[0].inputs
    assert not torch.equal(prompts, batches(batches.plan.updates)[0].inputs)


class Rank(World):
    """One of two ranks, whose neighbour is a call of its own."""

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        return [tensor, tensor]


def test_ranks_must_divide_prompts_and_batch() -> None:
    with pytest.raises(UserError, match=r"rollout\.prompts = 4 is not divisible by 3 processes"):
        make(world=World(0, 3))
    with pytest.raises(UserError, match=r"train\.batch = 1 is not divisible by 2 processes"):
        make({"train": {"batch": 1}}, world=World(0, 2))


def test_ranks_generate_their_share() -> None:
    whole, rank = make(samples=1), make(samples=1, world=Rank(1, 2))
    whole(0)
    rank(0)
    assert whole.episodes is not None
    assert rank.episodes is not None
    rows = [row[row != 0].tolist() for row in rank.episodes.inputs[2:]]
    assert rows == [row[row != 0].tolist() for row in whole.episodes.inputs[2:]]


def test_metrics_of_a_rollout() -> None:
    batches = make(reward=lambda _p, answer, _t: float(len(answer)))
    batches(0)
    found, episodes = batches.metrics(), batches.episodes
    assert episodes is not None
    rewards = episodes.extra["rewards"]
    assert found["rollout/reward"] == pytest.approx(float(rewards.mean()))
    assert found["rollout/reward_std"] == pytest.approx(float(rewards.std(correction=0)))
    assert found["rollout/length"] == pytest.approx(float((episodes.targets != IGNORE).sum()) / 8)
    assert 0 < found["rollout/entropy"] < 6
    assert found["rollout/truncated"] == pytest.approx(float(episodes.extra["truncated"].mean()))


def fails(prompt: str, answer: str, target: str | None) -> float:
    raise KeyError("no such word")


def test_reward_that_raises_names_its_line_prompt_and_answer() -> None:
    batches = make(reward=fails)
    with pytest.raises(UserError, match=r"test_on_policy\.py, line \d+: KeyError") as caught:
        batches(0)
    assert "prompt 'a" in caught.value.hint or "prompt '" in caught.value.hint
    assert "answer" in caught.value.hint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_reward_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"the reward of an answer is {value}"):
        make(reward=lambda *_: value)(0)


def test_constant_and_large_rewards_are_warned_about() -> None:
    constant = make(reward=lambda *_: 0.3)
    constant(0)
    assert "every answer of this rollout has the reward 0.3" in constant.warnings()[0]
    assert not constant.warnings(), "told once"
    large = make(reward=lambda _p, answer, _t: 1e6 * len(answer) + sum(map(ord, answer)))
    large(0)
    assert "rewards are large" in large.warnings()[0]


def test_rewards_are_clipped() -> None:
    batches = make({"rollout": {"reward_clip": 2.0}}, reward=lambda _p, answer, _t: 1000.0 * (-1) ** len(answer))
    batches(0)
    assert batches.episodes is not None
    assert set(batches.episodes.extra["rewards"].tolist()) <= {-2.0, 2.0}


def test_out_of_memory_halves_the_micro_batch() -> None:
    batches = make()
    batches.shrink()
    assert [len(batch.inputs) for batch in batches(0)] == [2, 2]
    batches.shrink()
    with pytest.raises(UserError, match="not enough memory for 1 sequences"):
        batches.shrink()
