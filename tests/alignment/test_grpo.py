"""GRPO: advantages, clipping, KL and the four averages as worked by hand; dropped groups; first update and resume."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aligning import make_setup, policy
from fledge.alignment.config import GRPOConfig
from fledge.alignment.grpo import (
    EPS,
    GRPO,
    GRPOObjective,
    clipped_loss,
    group_advantages,
    kl_divergence,
    row_weights,
)
from fledge.batches.loader import Batch
from fledge.core.errors import UserError
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.training.divergence import NotLearning
from fledge.training.step import StepResult

LOSSES = ("grpo", "dapo", "bnpo", "dr_grpo")


def tensor(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def make_grpo(layer: Any = None, **options: Any) -> tuple[GRPO, GPT]:
    setup = make_setup("grpo", {"grpo": {"group": 2}, **(layer or {})}, **options)
    method, model = GRPO(setup), policy(setup)
    method.batches(model, method.objective(compile=False))
    return method, model


def rollouts(method: GRPO) -> Any:
    return method.components()["rollout"]


def test_advantages_by_hand() -> None:
    rewards = tensor([1, 0, 0, 0], [2, 2, 4, 4])
    assert torch.equal(group_advantages(rewards, "none"), tensor([0.75, -0.25, -0.25, -0.25], [-1, -1, 1, 1]))
    found = group_advantages(rewards, "group")
    assert found[0].tolist() == pytest.approx([0.75 / (0.5 + EPS), *[-0.25 / (0.5 + EPS)] * 3])
    assert found[1, 3].item() == pytest.approx(1 / (math.sqrt(4 / 3) + EPS))
    spread = math.sqrt(sum((r - 13 / 8) ** 2 for r in (1, 0, 0, 0, 2, 2, 4, 4)) / 7)
    assert group_advantages(rewards, "batch")[1, 3].item() == pytest.approx(1 / (spread + EPS), rel=1e-6)


@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_advantages_do_not_depend_on_the_scale_of_rewards(seed: int, factor: float, offset: float) -> None:
    rewards = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
    changed = group_advantages(rewards * factor + offset, "group")
    assert torch.allclose(group_advantages(rewards, "group"), changed, atol=2e-2)
    assert torch.allclose(changed.mean(1), torch.zeros(3), atol=1e-4)


def test_groups_without_variance_are_dropped_and_the_others_weigh_more() -> None:
    rewards, truncated = tensor([1, 1], [0, 1], [0, 0], [0.3, 0.3]), tensor([0, 0], [0, 1], [1, 1], [0, 0])
    weight, informative = row_weights(rewards, truncated, mask_truncated=False)
    assert informative.tolist() == [False, True, False, False]
    assert torch.equal(weight, tensor([0, 0], [4, 4], [0, 0], [0, 0]))
    weight, _ = row_weights(rewards, truncated, mask_truncated=True)
    assert torch.equal(weight, tensor([0, 0], [8, 0], [0, 0], [0, 0]))
    nothing, _ = row_weights(tensor([1, 1]), tensor([0, 0]), mask_truncated=False)
    assert not nothing.any()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 1.0, -1.0, False),
        (1.25, 1.0, -1.25, False),
        (1.5, 1.0, -1.28, True),  # the gain is clipped above
        (0.5, 1.0, -0.5, False),  # a loss is not
        (0.5, -1.0, 0.8, True),
        (1.5, -1.0, 1.5, False),
        (9.0, 0.0, 0.0, False),
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    found, mark = clipped_loss(tensor([ratio]), tensor([advantage]), GRPOConfig())
    assert found.item() == pytest.approx(loss)
    assert mark.item() is clipped


def test_kl_by_hand() -> None:
    found = kl_divergence(tensor([math.log(0.5), math.log(0.25)]), tensor([math.log(0.25), math.log(0.25)]))
    assert found.tolist()[0] == pytest.approx([0.5 - math.log(0.5) - 1, 0])


class Table(torch.nn.Module):
    """A "model" whose log-probabilities are its parameters."""

    def __init__(self, logprobs: Tensor) -> None:
        super().__init__()
        self.logprobs = torch.nn.Parameter(logprobs)

    def forward_loss(self, inputs: Tensor, targets: Tensor, _: Any) -> Tensor:
        return torch.where(targets == IGNORE, 0, self.logprobs[inputs[:, 0]])


def example_batch() -> tuple[Any, Batch]:
    """Three answers of 1, 3 and 2 tokens; the last was dropped."""
    targets = torch.tensor([[IGNORE, 5, IGNORE, IGNORE], [5, 5, 5, IGNORE], [IGNORE, IGNORE, 5, 5]])
    inputs = torch.arange(3)[:, None].expand(3, 4)
    old = torch.where(targets == IGNORE, 0, -1.0)
    extra = {
        "old_logprobs": old,
        "advantages": torch.tensor([2.0, -1.0, 0.0]),
        "weight": torch.tensor([1.5, 1.5, 0.0]),
        "mean_length": torch.full((3,), 2.0),
    }
    return Table(torch.full((3, 4), -1.0)), Batch(inputs, targets, extra)


@pytest.mark.parametrize(
    ("name", "total", "count"),
    [("grpo", 1.5 * (-2 + 1), 3), ("dapo", 1.5 * (-2 + 3), 6), ("bnpo", 1.5, 6), ("dr_grpo", 1.5, 3 * 7)],
)
def test_averages_by_hand(name: Any, total: float, count: float) -> None:
    model, batch = example_batch()
    objective = GRPOObjective(GRPOConfig(loss=name), max_tokens=7)
    found = objective(model, batch)
    assert found.total.item() == pytest.approx(total)
    assert found.count.item() == objective.count(batch).item() == count
    assert [part.item() for part in found.metrics["grpo/clip_fraction"]] == [0, 4]


@pytest.mark.parametrize("name", LOSSES)
def test_sums_do_not_depend_on_the_split(name: Any) -> None:
    model, batch = example_batch()
    objective = GRPOObjective(GRPOConfig(loss=name), max_tokens=7)
    whole, parts = objective(model, batch), [objective(model, piece) for piece in batch.split(1)]
    assert sum(part.total for part in parts).item() == pytest.approx(whole.total.item())
    assert sum(part.count for part in parts).item() == whole.count.item()


def test_an_update_with_nothing_to_learn_from_changes_nothing() -> None:
    model, batch = example_batch()
    batch = Batch(batch.inputs, batch.targets, {**batch.extra, "weight": torch.zeros(3)})
    found = GRPOObjective(GRPOConfig(), 7)(model, batch)
    (found.total / found.count).backward()
    assert found.total.item() == 0
    assert not model.logprobs.grad.any()


def test_kl_term_pulls_to_the_reference() -> None:
    model, batch = example_batch()
    batch = Batch(batch.inputs, batch.targets, {**batch.extra, "ref_logprobs": batch.extra["old_logprobs"] * 2})
    plain, pulled = (GRPOObjective(GRPOConfig(kl_coef=coef), 7)(model, batch).total for coef in (0.0, 0.5))
    assert (pulled - plain).item() == pytest.approx(0.5 * 4 * 1.5 * (math.exp(-1) + 1 - 1))


@pytest.mark.parametrize("name", LOSSES)
def test_first_update_is_on_policy(name: str) -> None:
    """Every ratio is 1, so the loss is minus the mean advantage; the gradient is that of REINFORCE."""
    method, model = make_grpo({"grpo": {"group": 2, "loss": name}})
    (batch,) = rollouts(method)(0)
    found = method.objective(compile=False)(model, batch)
    assert found.metrics["grpo/clip_fraction"][0].item() == 0
    lengths = (batch.targets != IGNORE).sum(1)
    rows = -batch.extra["advantages"] * batch.extra["weight"] * (1 if name == "grpo" else lengths)
    assert found.total.item() == pytest.approx(rows.sum().item(), rel=1e-4, abs=1e-4)


def test_metrics_and_groups_of_a_rollout() -> None:
    method, _ = make_grpo()
    rollouts(method)(0)
    extra, found = rollouts(method).episodes.extra, method.metrics(1)
    assert extra["rewards"].shape == (8,), "four prompts, two answers to each"
    assert torch.allclose(extra["advantages"].view(4, 2).sum(1), torch.zeros(4), atol=1e-5)
    assert 0 <= found["grpo/zero_variance_groups"] < 1
    assert found["grpo/advantage"] > 0
    assert "grpo/kl" not in found


def test_constant_reward_warns_and_drops_everything() -> None:
    method, model = make_grpo(reward=lambda *_: 0.5)
    (batch,) = rollouts(method)(0)
    assert method.metrics(1)["grpo/zero_variance_groups"] == 1
    assert method.objective(compile=False)(model, batch).total.item() == 0
    assert any("every answer of this rollout has the reward 0.5" in each for each in method.check(result()))


def result(step: int = 1) -> StepResult:
    return StepResult(step, 0.1, 1e-3, 1.0, 10, 0.1)


def test_policy_that_runs_away_is_stopped() -> None:
    method, model = make_grpo({"grpo": {"group": 2, "kl_coef": 0.01, "kl_limit": 0.5}})
    rollouts(method)(0)
    assert method.metrics(1)["grpo/kl"] == 0, "the policy is the reference"
    assert not list(method.check(result()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape))
    rollouts(method)(rollouts(method).plan.updates)
    with pytest.raises(NotLearning, match="nats an answer at step 7") as caught:
        list(method.check(result(7)))
    assert "--grpo.kl_coef" in caught.value.hint


def test_resume_inside_an_iteration_gives_the_same_update() -> None:
    method, _ = make_grpo()
    first = rollouts(method)
    first(0)
    (expected,) = first(1)
    again, _ = make_grpo()
    resumed = rollouts(again)
    resumed.load_state_dict(first.state_dict())
    (found,) = resumed(1)
    assert torch.equal(found.inputs, expected.inputs)
    assert found.extra.keys() == expected.extra.keys()
    assert all(torch.equal(found.extra[name], expected.extra[name]) for name in expected.extra)


def test_held_out_answers_are_greedy_and_have_errors() -> None:
    method, model = make_grpo()
    evaluations = method.evaluations(model, iter)
    found = evaluations.evaluate()
    assert found == evaluations.evaluate()
    assert found.loss == -found.metrics["val/reward"]
    assert found.metrics["val/reward_error"] > 0
    assert found.metrics["val/exact_match"] == 0


@pytest.mark.parametrize(
    "setting", [{"group": 1}, {"clip_low": 1.5}, {"clip_high": -1}, {"kl_coef": math.nan}, {"epochs": 0}]
)
def test_impossible_settings_are_refused(setting: Any) -> None:
    with pytest.raises(UserError, match=f"grpo.{next(iter(setting))} cannot be"):
        GRPOConfig(**setting)


@pytest.mark.parametrize("reward", [0.1, 0.3, 12.3])
@pytest.mark.parametrize("group", [7, 8, 12])
def test_group_of_equal_rewards_is_dropped_in_spite_of_rounding(reward: float, group: int) -> None:
    rewards = torch.full((2, group), reward)
    rewards[1, 0] += 1
    _, informative = row_weights(rewards, torch.zeros_like(rewards), mask_truncated=False)
    assert informative.tolist() == [False, True]
