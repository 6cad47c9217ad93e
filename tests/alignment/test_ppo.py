"""PPO: advantages, clipping and values as worked by hand, its limit is REINFORCE, and padding changes nothing."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aligning import make_setup, policy
from fledge.alignment.config import PPOConfig
from fledge.alignment.critic import value_loss
from fledge.alignment.ppo import PPO, KLController, PPOObjective, gae, token_kl, token_rewards, whiten
from fledge.alignment.reinforce import Reinforce, ReinforceObjective
from fledge.batches.loader import Batch
from fledge.core.errors import UserError
from fledge.losses.cross_entropy import IGNORE
from fledge.losses.logprobs import token_logprobs
from fledge.model.gpt import GPT
from fledge.training.divergence import NotLearning
from fledge.training.step import StepResult


def make_ppo(layer: Any = None, *, values: float = 1.0, **options: Any) -> tuple[PPO, GPT]:
    """values: size of the weights of the critic's value head; 0 in a new run."""
    setup = make_setup("ppo", layer, **options)
    method, model = PPO(setup), policy(setup)
    head = method.critic.model.value_head
    assert head is not None
    torch.nn.init.normal_(head.weight, std=values)
    method.batches(model, method.objective(compile=False))
    return method, model


def batches_of(method: Any) -> Any:
    return method.components()["rollout"]


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def test_gae_by_hand() -> None:
    """γ = 0.9, λ = 0.5, prompt at place 0, three tokens, padding at place 4."""
    valid = torch.tensor([[False, True, True, True, False]])
    rewards, values = row(0, 0.1, -0.2, 1.0, 0), row(9, 0.5, 0.4, 0.3, 9)
    last = 1.0 - 0.3
    second = (-0.2 + 0.9 * 0.3 - 0.4) + 0.45 * last
    first = (0.1 + 0.9 * 0.4 - 0.5) + 0.45 * second
    found = gae(rewards, values, valid, 0.9, 0.5)
    assert found.tolist()[0] == pytest.approx([0, first, second, last, 0])


def test_gae_without_discount_is_the_reward_to_come_less_the_value() -> None:
    rewards, values, valid = torch.randn(3, 7), torch.randn(3, 7), torch.ones(3, 7, dtype=torch.bool)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    assert torch.allclose(gae(rewards, values, valid, 1.0, 1.0), to_come - values, atol=1e-5)


def test_gae_with_lambda_zero_is_one_step() -> None:
    rewards, values, valid = torch.randn(2, 4), torch.randn(2, 4), torch.ones(2, 4, dtype=torch.bool)
    after = torch.cat((values[:, 1:], torch.zeros(2, 1)), 1)
    assert torch.allclose(gae(rewards, values, valid, 0.9, 0.0), rewards + 0.9 * after - values)


def test_reward_comes_with_the_last_token() -> None:
    valid = torch.tensor([[False, True, True, False], [True, False, False, False]])
    penalties = torch.tensor([[0, 0.1, 0.2, 0], [0.5, 0, 0, 0]])
    found = token_rewards(torch.tensor([2.0, -1.0]), penalties, valid)
    assert torch.allclose(found, torch.tensor([[0, -0.1, 1.8, 0], [-1.5, 0, 0, 0]]))


def test_kl_estimators_by_hand() -> None:
    logprobs, reference = row(math.log(0.5), math.log(0.25)), row(math.log(0.25), math.log(0.5))
    assert token_kl(logprobs, reference, "k1").tolist()[0] == pytest.approx([math.log(2), -math.log(2)])
    k3 = [0.5 - 1 + math.log(2), 2 - 1 - math.log(2)]
    assert token_kl(logprobs, reference, "k3").tolist()[0] == pytest.approx(k3)


def test_kl_estimators_have_the_mean_of_the_divergence() -> None:
    p, q = torch.randn(6).softmax(0), torch.randn(6).softmax(0)
    exact = float((p * (p / q).log()).sum())
    for estimator in ("k1", "k3"):
        assert float((p * token_kl(p.log(), q.log(), estimator)).sum()) == pytest.approx(exact, rel=1e-4)


def test_whitened_advantages_ignore_padding() -> None:
    valid = torch.tensor([[True, True, False], [True, False, False]])
    found = whiten(torch.tensor([[1.0, 2.0, 99.0], [6.0, -99.0, 5.0]]), valid)
    deviation = math.sqrt(14 / 3)
    expected = [[-2 / deviation, -1 / deviation, 0], [3 / deviation, 0, 0]]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


class Given:
    """A policy whose log-probabilities are given."""

    def __init__(self, logprobs: Tensor) -> None:
        self.logprobs = logprobs

    def forward_loss(self, *_: Any) -> Tensor:
        return self.logprobs


def test_clipping_by_hand() -> None:
    """Four tokens: ratio 2 with a good and a bad advantage, ratio 1/2 with both; then one of padding."""
    ratios, advantages = row(2.0, 2.0, 0.5, 0.5, 3.0), row(1.0, -1.0, 1.0, -1.0, 7.0)
    targets = torch.tensor([[1, 2, 3, 4, IGNORE]])
    extra = {"old_logprobs": row(-1, -1, -1, -1, 0), "advantages": advantages}
    batch = Batch(targets, targets, extra)
    model: Any = Given(extra["old_logprobs"] + ratios.log())
    found = PPOObjective(PPOConfig(clip=0.2))(model, batch)
    assert float(found.total) == pytest.approx(-1.2 + 2.0 - 0.5 + 0.8)
    assert int(found.count) == 4
    clipped, count = found.metrics["ppo/clip_fraction"]
    assert float(clipped / count) == 1.0
    update_kl, _ = found.metrics["ppo/update_kl"]
    assert float(update_kl) == pytest.approx(2 * (1 - math.log(2)) + 2 * (-0.5 + math.log(2)))


def test_value_loss_by_hand() -> None:
    """With a clip, a value that moved by 0.5 towards its return counts for 0.2; one that moved away counts in full."""
    values, old, returns = row(0.5, -0.5), row(0, 0), row(1.0, 1.0)
    assert value_loss(values, old, returns, 0.2).tolist()[0] == pytest.approx([0.5 * 0.8**2, 0.5 * 1.5**2])
    assert value_loss(values, old, returns, 0.0).tolist()[0] == pytest.approx([0.5 * 0.5**2, 0.5 * 1.5**2])


def test_entropy_bonus_is_the_entropy_of_the_whole_distribution() -> None:
    method, model = make_ppo({"ppo": {"entropy_coef": 1.0}})
    (batch,) = batches_of(method)(0)
    batch = replace(batch, extra={**batch.extra, "advantages": torch.zeros_like(batch.extra["advantages"])})
    found, valid = method.objective(compile=False)(model, batch), batch.targets != IGNORE
    probabilities = model(batch.inputs).softmax(-1)
    entropies = -(probabilities * probabilities.log()).sum(-1)[valid]
    assert float(found.total.detach()) == pytest.approx(-float(entropies.detach().sum()), rel=1e-4)
    assert float(found.metrics["ppo/entropy"][0]) == pytest.approx(float(entropies.detach().sum()), rel=1e-4)


def gradients(loss: Tensor, model: GPT) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_limit_is_reinforce() -> None:
    """One epoch, nothing clipped, λ = 1, no values, no KL penalty, advantages as they are: the same gradient."""
    config = {"epochs": 1, "gae_lambda": 1.0, "kl_coef": 0.0, "whiten": False}
    method, model = make_ppo({"ppo": config}, values=0.0)
    (batch,) = batches_of(method)(0)
    ours = gradients(method.objective(compile=False)(model, batch).total, model)
    plain = Batch(batch.inputs, batch.targets, {"advantages": batch.extra["rewards"]})
    simplest = gradients(ReinforceObjective()(model, plain).total, model)
    assert ours.keys() == simplest.keys()
    for name, gradient in simplest.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-4, atol=1e-6), name
    assert max(float(gradient.abs().max()) for gradient in simplest.values()) > 1e-3


def test_reinforce_gradient_is_that_of_the_expected_reward() -> None:
    """One token, two rewards: Σ_y R(y) ∇ π(y) over the whole vocabulary, against REINFORCE with every y by its π."""
    setup = make_setup("reinforce")
    model, vocabulary = policy(setup), setup.tokenizer.vocab_size
    rewards = torch.arange(vocabulary) % 5.0
    prompt = torch.tensor([[1, 2, 3]])
    exact = gradients((model(prompt)[0, -1].softmax(-1) * rewards).sum(), model)
    weights = model(prompt)[0, -1].softmax(-1).detach()
    targets = torch.full((vocabulary, 3), IGNORE)
    targets[:, -1] = torch.arange(vocabulary)
    batch = Batch(prompt.expand(vocabulary, 3), targets, {"advantages": weights * rewards})
    ours = gradients(-ReinforceObjective()(model, batch).total, model)
    for name, gradient in exact.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-5), name


def padded(batch: Batch, left: int, chance: torch.Generator) -> Batch:
    """`left` more columns on the right, with any ids and any numbers where there is no target."""
    T = batch.inputs.shape[1]

    def wider(tensor: Tensor) -> Tensor:
        if tensor.ndim == 1:
            return tensor
        noise = torch.randint(0, 9, (len(tensor), left), generator=chance).to(tensor.dtype)
        return torch.cat((tensor, torch.full_like(noise, IGNORE) if tensor is batch.targets else noise), 1)

    found = batch.map(wider)
    assert found.inputs.shape[1] == T + left
    return found


def with_returns(batch: Batch, advantages: Tensor, values: Tensor) -> Batch:
    noise = 7.0 * (batch.targets == IGNORE)  # where there is no target, anything may stand
    return replace(batch, extra={"old_values": values + noise, "returns": advantages + values - noise})


@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_padding_changes_nothing(columns: int, seed: int) -> None:
    method, model = PADDED
    (batch,) = batches_of(method)(0)
    objective = method.objective(compile=False)
    wide = padded(batch, columns, torch.Generator().manual_seed(seed))
    ours, theirs = objective(model, batch), objective(model, wide)
    assert float(ours.total.detach()) == pytest.approx(float(theirs.total.detach()), rel=1e-4, abs=1e-5)
    assert int(ours.count) == int(theirs.count)
    for name, (total, _) in ours.metrics.items():
        assert float(total.detach()) == pytest.approx(float(theirs.metrics[name][0].detach()), rel=1e-3, abs=1e-5), name
    narrow, broad = gradients(ours.total, model), gradients(theirs.total, model)
    for name, gradient in narrow.items():
        assert torch.allclose(gradient, broad[name], rtol=1e-3, atol=1e-5), name
    # what is prepared for the rollout, too
    valid, wider_valid = batch.targets != IGNORE, wide.targets != IGNORE
    values, wider_values = method.critic.values(batch), method.critic.values(wide)
    rewards = token_rewards(batch.extra["rewards"], batch.extra["old_logprobs"], valid)
    wider_rewards = token_rewards(wide.extra["rewards"], wide.extra["old_logprobs"], wider_valid)
    advantages = gae(rewards, values, valid, 0.9, 0.9)
    wider_advantages = gae(wider_rewards, wider_values, wider_valid, 0.9, 0.9)
    T = valid.shape[1]
    assert not wider_values[:, T:].any()
    assert torch.allclose(wider_advantages[:, :T], advantages, atol=1e-4)
    critic = [
        method.critic._loss(with_returns(each, adv, val))
        for each, adv, val in ((batch, advantages, values), (wide, wider_advantages, wider_values))
    ]
    assert float(critic[0].detach()) == pytest.approx(float(critic[1].detach()), rel=1e-3)
    assert not wider_advantages[:, T:].any()
    assert torch.allclose(whiten(wider_advantages, wider_valid)[:, :T], whiten(advantages, valid), atol=1e-5)


PADDED = make_ppo({"ppo": {"entropy_coef": 0.1}})


def test_values_stand_before_the_tokens_that_they_judge() -> None:
    """The value of a token must not know the token: it depends on the tokens before it alone."""
    method, _ = make_ppo()
    (batch,) = batches_of(method)(0)
    place = int((batch.targets[0] != IGNORE).nonzero()[0])  # of the first token of the answer, among the targets
    inputs = batch.inputs.clone()
    inputs[0, place + 1] = (inputs[0, place + 1] + 1) % 200
    ours, theirs = method.critic.values(batch), method.critic.values(replace(batch, inputs=inputs))
    assert not ours[0, :place].any()
    assert float(ours[0, place]) != 0
    assert torch.equal(ours[0, : place + 1], theirs[0, : place + 1])
    assert not torch.equal(ours[0, place + 1], theirs[0, place + 1])


def test_first_update_has_ratio_one() -> None:
    method, model = make_ppo()
    (batch,) = batches_of(method)(0)
    found = method.objective(compile=False)(model, batch)
    assert float(found.metrics["ppo/update_kl"][0]) == 0
    assert float(found.metrics["ppo/clip_fraction"][0]) == 0
    assert torch.equal(model.forward_loss(batch.inputs, batch.targets, token_logprobs), batch.extra["old_logprobs"])


def test_critic_learns_the_reward() -> None:
    """Its loss falls, it explains the variance, and the policy stays as it was."""
    method, model = make_ppo({"ppo": {"value_lr": 0.01, "epochs": 4}}, values=0.0)
    batches, before = batches_of(method), copy.deepcopy(model.state_dict())
    losses = []
    for iteration in range(8):
        batches(iteration * batches.plan.updates)
        losses.append(method.metrics(1)["ppo/value_loss"])
    assert losses[-1] < losses[0] / 3
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_critic_continues_with_the_same_bits() -> None:
    method, _ = make_ppo()
    batches_of(method)(0)
    batches_of(method)(batches_of(method).plan.updates)
    state = {name: tensor.clone() for name, tensor in method.critic.state_dict().items()}
    other, _ = make_ppo()
    other.critic.load_state_dict(state)
    batch = batches_of(method).episodes
    updates = [[replace(batch, extra={"old_values": torch.zeros(4, 1), "returns": torch.ones(4, 1)})]]
    assert method.critic.fit(updates) == other.critic.fit(updates)
    ours, theirs = method.critic.state_dict(), other.critic.state_dict()
    assert ours.keys() == theirs.keys() == state.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_critic_without_a_state_begins_anew() -> None:
    method, _ = make_ppo(values=0.0)
    start = {name: tensor.clone() for name, tensor in method.critic.state_dict().items()}
    batches_of(method)(0)
    method.critic.load_state_dict({})
    again = method.critic.state_dict()
    assert again.keys() == start.keys()
    assert all(torch.equal(again[name], start[name]) for name in start)


def test_adapters_of_a_critic() -> None:
    method, _ = make_ppo({"model": {"lora": 2}}, values=0.0)
    trained = {name for name, p in method.critic.model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name or name == "value_head.weight" for name in trained)
    batches_of(method)(0)
    restored, _ = make_ppo({"model": {"lora": 2}}, values=0.0)
    restored.critic.load_state_dict(method.critic.state_dict())
    batch = batches_of(method).episodes
    assert torch.equal(restored.critic.values(batch), method.critic.values(batch))


def test_metrics_of_a_rollout() -> None:
    method, _ = make_ppo()
    batches_of(method)(0)
    found = method.metrics(1)
    assert found["ppo/kl"] == 0, "the policy is the reference"
    assert found["ppo/kl_coef"] == PPOConfig().kl_coef
    assert found["ppo/explained_variance"] <= 1
    assert {"ppo/advantage", "ppo/advantage_std", "rollout/reward"} <= found.keys()


def result(step: int = 1) -> StepResult:
    return StepResult(step, 0.1, 1e-3, 1.0, 10, 0.1)


def test_policy_that_runs_away_is_stopped() -> None:
    method, model = make_ppo({"ppo": {"kl_limit": 0.5}})
    batches = batches_of(method)
    batches(0)
    assert not list(method.check(result()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape))
    batches(batches.plan.updates)
    with pytest.raises(NotLearning, match=r"ran away .* nats an answer at step 7") as caught:
        list(method.check(result(7)))
    assert "--ppo.kl_coef" in caught.value.hint


def test_coefficient_adapts_to_the_target() -> None:
    kl = KLController(0.1, target=5.0)
    kl.update(100.0)
    assert kl.coefficient == pytest.approx(0.1 * 1.02)
    kl.update(0.0)
    assert kl.coefficient == pytest.approx(0.1 * 1.02 * 0.98)
    kl.update(5.5)
    assert kl.coefficient == pytest.approx(0.1 * 1.02 * 0.98 * 1.01)
    resumed = KLController(0.1, target=5.0)
    resumed.load_state_dict(kl.state_dict())
    assert resumed.coefficient == kl.coefficient
    resumed.load_state_dict({})
    assert resumed.coefficient == 0.1


def test_coefficient_without_a_target_stays() -> None:
    kl = KLController(0.1, target=None)
    kl.update(100.0)
    assert kl.coefficient == 0.1


def test_penalty_lowers_the_reward_of_what_the_reference_finds_unlikely() -> None:
    method, model = make_ppo(
        {"ppo": {"kl_coef": 1.0, "gae_lambda": 1.0, "whiten": False}}, values=0.0, reward=lambda *_: 0.0
    )
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    (batch,) = batches_of(method)(0)
    reference = copy.deepcopy(method.reference).forward_loss(batch.inputs, batch.targets, token_logprobs)
    first = (batch.targets != IGNORE).int().argmax(1)
    returns = batch.extra["advantages"].gather(1, first[:, None])[:, 0]
    assert torch.allclose(returns, -(batch.extra["old_logprobs"] - reference).sum(1), atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"train": {"parallel": "fsdp"}}, "cannot train with FSDP"),
        ({"model": {"dropout": 0.1}}, "cannot train with dropout"),
    ],
)
def test_settings_that_cannot_work(layer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_ppo(layer)


def test_reward_is_required() -> None:
    with pytest.raises(UserError, match="ppo needs a reward"):
        PPO(replace(make_setup("ppo"), reward=None))


@pytest.mark.parametrize("setting", ["clip", "gamma", "kl_coef", "gae_lambda", "epochs"])
def test_impossible_settings_are_refused(setting: str) -> None:
    with pytest.raises(UserError, match=rf"ppo\.{setting} cannot be -1"):
        PPOConfig(**{setting: -1})


def test_reinforce_baseline_is_the_mean_reward() -> None:
    setup = make_setup("reinforce", {"reinforce": {"kl_coef": 0.0}})
    method, model = Reinforce(setup), policy(setup)
    method.batches(model, method.objective(compile=False))
    batches_of(method)(0)
    extra = batches_of(method).episodes.extra
    assert torch.allclose(extra["advantages"], extra["rewards"] - extra["rewards"].mean())
