"""DPO: losses by hand, batches with the reference, warnings, and training that prefers what was chosen."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_chat
from fledge.alignment.config import AlignConfig, DPOConfig, DPOSettings, RolloutConfig
from fledge.alignment.dpo import DPO, LOSSES, REFERENCE, UNMOVED_STEPS, DPOObjective, Unmoved
from fledge.alignment.online import answer_kl
from fledge.alignment.preferences import encode_pairs, pair_batch
from fledge.alignment.reference import ROWS, pair_logprobs, reference_logprobs
from fledge.alignment.rollout import with_path
from fledge.alignment.setup import AlignSetup
from fledge.batches.loader import Batch
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.config import DataConfig
from fledge.datasets.examples import Example
from fledge.losses.cross_entropy import IGNORE
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.optim.config import OptimConfig
from fledge.tokenizers.config import TokenizerConfig
from fledge.tracking.config import TrackConfig
from fledge.training.config import TrainConfig
from fledge.training.setup import build_training
from fledge.training.step import StepResult, TrainStep
from tiny_chat import user

MACHINE = Machine("cpu", "float32")
TOKENIZER = tiny_chat.chat_tokenizer()
TEMPLATE = tiny_chat.chat_template(TOKENIZER)
PAIRS = [Example((user(f"{a}?"),), f"yes {b}", "n" * b) for a in "abcde" for b in range(1, 5)]


def settings(model: ModelConfig, dpo: DPOConfig = DPOConfig(), **train: Any) -> DPOSettings:  # noqa: B008
    options = {"steps": 30, "batch": 8, "device": "cpu", "dtype": "float32", "compile": False, "eval_every": 10}
    return DPOSettings(
        model=model,
        data=DataConfig(),
        tokenizer=TokenizerConfig(),
        optim=OptimConfig(lr=0.01, warmup_steps=0),
        train=TrainConfig(**{**options, **train}),
        track=TrackConfig(),
        align=AlignConfig("dpo"),
        dpo=dpo,
        rollout=RolloutConfig(max_tokens=8, slots=4),
    )


def setup(policy: GPT, dpo: DPOConfig = DPOConfig(), **train: Any) -> AlignSetup[DPOSettings]:  # noqa: B008
    return AlignSetup(
        settings=settings(policy.config, dpo, **train),
        machine=MACHINE,
        tokenizer=TOKENIZER,
        template=TEMPLATE,
        train=PAIRS[:16],
        val=PAIRS[16:],
        fingerprint="",
        reference=lambda: policy,
    )


def opened(dpo: DPOConfig = DPOConfig(), **train: Any) -> tuple[DPO, TrainStep]:  # noqa: B008
    """The method, and its step from the weights of the reference."""
    policy = tiny_chat.tiny_model()
    method = DPO(setup(policy, dpo, **train))
    step = build_training(method.setup.settings, MACHINE, method)
    step.model.load_state_dict(policy.state_dict())
    return method, step


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def loss(delta: float, **config: Any) -> float:
    made = DPOConfig(**config)
    return float(LOSSES[made.loss][0](torch.tensor(delta, dtype=torch.float64), made))


def test_losses_by_hand() -> None:
    assert loss(0.0) == pytest.approx(math.log(2))
    assert loss(3.0, beta=0.5) == pytest.approx(-math.log(logistic(1.5)))
    smoothed = -0.8 * math.log(logistic(1.5)) - 0.2 * math.log(logistic(-1.5))
    assert loss(3.0, beta=0.5, label_smoothing=0.2) == pytest.approx(smoothed)
    robust = (-0.8 * math.log(logistic(1.5)) + 0.2 * math.log(logistic(-1.5))) / 0.6
    assert loss(3.0, loss="robust", beta=0.5, label_smoothing=0.2) == pytest.approx(robust)
    assert loss(3.0, loss="ipo", beta=0.1) == pytest.approx((3 - 5) ** 2)


def test_robust_loss_is_unbiased() -> None:
    """With a share of labels flipped, its mean is the loss of the right labels."""
    robust = {"loss": "robust", "label_smoothing": 0.2, "beta": 1.0}
    assert 0.8 * loss(1.3, **robust) + 0.2 * loss(-1.3, **robust) == pytest.approx(loss(1.3, beta=1.0))


@pytest.mark.parametrize("name", LOSSES)
def test_rows_and_tokens_that_count(name: str) -> None:
    """From the log-probabilities of the model's logits, row by row."""
    policy, reference = tiny_chat.tiny_model(1).requires_grad_(False), tiny_chat.tiny_model(2)
    pairs = encode_pairs(PAIRS[:4], TEMPLATE, 64)
    config = DPOConfig(loss=name, beta=0.7)  # type: ignore[arg-type]
    batch = pair_batch(pairs, 64, {REFERENCE: reference_logprobs(reference, pairs, MACHINE)})
    found = DPOObjective(config)(policy, batch)
    total, margin = 0.0, 0.0
    for pair in pairs:
        scores, ratios = [], []
        for answer in (pair.chosen.tolist(), pair.rejected.tolist()):
            ids = torch.tensor([[*pair.prompt.tolist(), *answer]])
            each = [
                float(
                    model(ids)[0, len(pair.prompt) - 1 : -1]
                    .log_softmax(-1)
                    .gather(1, ids[0, -len(answer) :, None])
                    .sum()
                )
                for model in (policy, reference)
            ]
            ratios.append(each[0] - each[1])
            scores.append(ratios[-1] / len(answer) if LOSSES[name][1] else ratios[-1])
        total += float(LOSSES[name][0](torch.tensor(scores[0] - scores[1]), config))
        margin += 0.7 * (ratios[0] - ratios[1])
    assert float(found.total) == pytest.approx(total, rel=1e-4)
    assert float(found.metrics["dpo/margin"][0]) == pytest.approx(margin, rel=1e-3, abs=1e-4)
    assert int(found.count) == 4


@given(st.integers(1, 7), st.sampled_from(sorted(LOSSES)))
def test_split_batch_adds_up(size: int, name: str) -> None:
    pairs = encode_pairs(PAIRS[:7], TEMPLATE, 64)
    policy = tiny_chat.tiny_model(1)
    extra = {REFERENCE: reference_logprobs(tiny_chat.tiny_model(2), pairs, MACHINE)}
    objective = DPOObjective(DPOConfig(loss=name))  # type: ignore[arg-type]
    policy.requires_grad_(False)
    whole = objective(policy, pair_batch(pairs, 64, extra))
    parts = [objective(policy, piece) for piece in pair_batch(pairs, 64, extra).split(size)]
    assert float(sum(part.total for part in parts)) == pytest.approx(float(whole.total), rel=1e-4)
    assert int(sum(part.count for part in parts)) == int(whole.count) == 7
    for metric, (total, _) in whole.metrics.items():
        assert float(sum(part.metrics[metric][0] for part in parts)) == pytest.approx(float(total), rel=1e-3, abs=1e-4)


def test_reference_is_that_of_the_update_whatever_the_order() -> None:
    model = tiny_chat.tiny_model(1)
    pairs = encode_pairs(PAIRS, TEMPLATE, 64)
    assert len(pairs) > 2 * ROWS
    found = reference_logprobs(model, pairs, MACHINE)
    assert torch.allclose(found, pair_logprobs(model, pair_batch(pairs, 64)).detach(), atol=1e-4)
    assert torch.equal(found, reference_logprobs(model, pairs, MACHINE))
    assert torch.allclose(found, reference_logprobs(model, pairs[::-1], MACHINE).flip(0), atol=1e-4)


def test_reference_does_not_depend_on_the_number_of_ranks() -> None:
    pairs, model = encode_pairs(PAIRS, TEMPLATE, 64), tiny_chat.tiny_model(1)

    class Rank:
        def __init__(self, rank: int) -> None:
            self.rank, self.size = rank, 3

        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    shares = [reference_logprobs(model, pairs, replace(MACHINE, world=Rank(rank))) for rank in range(3)]  # type: ignore[arg-type]
    assert torch.equal(sum(shares), reference_logprobs(model, pairs, MACHINE))
    assert all((share == 0).any() for share in shares)


def test_first_step_has_the_loss_of_the_reference_and_training_prefers_what_was_chosen() -> None:
    method, step = opened()
    evaluations = method.evaluations(step.model, iter)  # type: ignore[arg-type]
    before = evaluations.evaluate()
    assert before.loss == pytest.approx(math.log(2), abs=1e-5)
    results = [step(number) for number in range(20)]
    assert results[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert results[-1].objective_metrics["dpo/accuracy"] == 1.0
    assert results[-1].objective_metrics["dpo/margin"] > 1
    after = evaluations.evaluate()
    assert after.loss < 0.5
    assert after.metrics["val/accuracy"] == 1.0
    assert after.metrics["val/margin"] > 0.5
    assert list(after.metrics) == [
        "val/loss",
        "val/margin",
        "val/accuracy",
        "val/chosen_reward",
        "val/rejected_reward",
        "val/chosen_logprob",
        "val/rejected_logprob",
    ]
    assert method.metrics(4) == {"train/epoch": 2.0}


def test_micro_batches_give_the_same_gradient() -> None:
    whole, pieces = opened()[1](0), opened(micro_batch=2)[1](0)
    assert pieces.grad_norm == pytest.approx(whole.grad_norm, rel=1e-4)
    assert whole.tokens == pieces.tokens > 0


def starts_with_n(_prompt: str, answer: str, _target: str | None) -> float:
    return float(answer.startswith("n"))


def test_answers_are_rewarded_and_compared_with_the_reference() -> None:
    policy = tiny_chat.tiny_model()
    method = DPO(replace(setup(policy), reward=starts_with_n))
    step = build_training(method.setup.settings, MACHINE, method)
    step.model.load_state_dict(policy.state_dict())
    evaluations = method.evaluations(step.model, iter)  # type: ignore[arg-type]
    before = evaluations.evaluate()
    assert before.metrics["val/kl"] == pytest.approx(0, abs=1e-4)
    assert before.metrics["val/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert before.loss == -before.metrics["val/reward"]
    for number in range(10):
        step(number)
    after = evaluations.evaluate()
    assert after.metrics["val/kl"] > 0.5
    assert {"val/reward", "val/reward_error", "val/accuracy"} <= after.metrics.keys()
    assert [text for text in evaluations.notices() if "pairs" in text]
    assert [text for text in evaluations.notices() if "prompts" in text]
    assert method.sample(step.model, 1, iter).reward in (0.0, 1.0)  # type: ignore[arg-type]


def test_kl_of_answers_is_that_of_the_distributions_of_their_tokens() -> None:
    policy, reference = tiny_chat.tiny_model(1).eval(), tiny_chat.tiny_model(2).eval()
    batch = pair_batch(encode_pairs(PAIRS[:2], TEMPLATE, 64), 64)
    chosen = Batch(batch.inputs[:, 0], batch.targets[:, 0])
    expected = 0.0
    for ids, targets in zip(chosen.inputs, chosen.targets, strict=True):
        ours, theirs = (model(ids[None])[0][targets != IGNORE].softmax(-1) for model in (policy, reference))
        expected += float((ours * (ours / theirs).log()).sum().detach())
    assert answer_kl(policy, reference, chosen, MACHINE) == pytest.approx(expected, rel=1e-4)
    assert answer_kl(policy, policy, chosen, MACHINE) == pytest.approx(0, abs=1e-5)


def test_rewards_during_training_with_fsdp_are_refused() -> None:
    made = setup(tiny_chat.tiny_model(), parallel="fsdp")
    assert DPO(made).pairs
    with pytest.raises(UserError, match="FSDP"):
        DPO(replace(made, reward=starts_with_n))


def test_run_without_held_out_pairs_is_not_evaluated() -> None:
    policy = tiny_chat.tiny_model()
    method = DPO(replace(setup(policy), val=[]))
    assert method.evaluations(policy, iter).every == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", [{"vocab_size": 300}, {"context": 32}])
def test_reference_that_does_not_match_is_refused(changed: dict[str, int]) -> None:
    policy, other = tiny_chat.tiny_model(), tiny_chat.tiny_model(**changed)
    method = DPO(replace(setup(policy), reference=lambda: other))
    with pytest.raises(UserError, match=f"its {next(iter(changed))} is {next(iter(changed.values()))}"):
        method.batches(policy, method.objective(compile=False))


def result(loss: float, lr: float = 0.01) -> StepResult:
    return StepResult(1, loss, lr, 1.0, 10, 0.1)


@pytest.mark.parametrize(("config", "start"), [(DPOConfig(), 0.69315), (DPOConfig(loss="ipo"), 25.0)])
def test_warning_where_the_loss_stays_at_its_start(config: DPOConfig, start: float) -> None:
    watch = Unmoved(config, 0.01)
    told = [list(watch.check(result(start * 1.005))) for _ in range(UNMOVED_STEPS + 5)]
    assert [bool(each) for each in told] == [n == UNMOVED_STEPS - 1 for n in range(UNMOVED_STEPS + 5)]
    [warning] = told[UNMOVED_STEPS - 1]
    assert f"{start:.3f}" in warning
    assert "--optim.lr (now 0.01)" in warning


def test_no_warning_while_the_loss_moves_or_the_learning_rate_is_small() -> None:
    watch = Unmoved(DPOConfig(), 0.01)
    for n in range(3 * UNMOVED_STEPS):
        assert not list(watch.check(result(0.68 if n % (UNMOVED_STEPS - 1) == 0 else math.log(2))))
        assert not list(watch.check(result(math.log(2), lr=0.0009)))


def test_count_of_unmoved_steps_survives_a_restart() -> None:
    first, second = Unmoved(DPOConfig(), 0.01), Unmoved(DPOConfig(), 0.01)
    for _ in range(UNMOVED_STEPS - 1):
        assert not list(first.check(result(math.log(2))))
    second.load_state_dict(first.state_dict())
    assert list(second.check(result(math.log(2))))
    second.load_state_dict({})
    assert second.steps == 0


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"beta": 0.0}, "dpo.beta"),
        ({"beta": math.nan}, "dpo.beta"),
        ({"label_smoothing": 0.5}, "dpo.label_smoothing"),
        ({"label_smoothing": -0.1}, "dpo.label_smoothing"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label smoothing"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=name):
        DPOConfig(**values)


def test_engine_path_is_chosen_only_where_answers_are_rewarded() -> None:
    plain = settings(tiny_chat.tiny_model().config)
    assert with_path(plain, MACHINE).rollout.decoder == "auto"
    rewarded = replace(plain, align=replace(plain.align, reward=("style",)))
    assert "float32" in with_path(rewarded, MACHINE).rollout.decoder
