"""Reward models: the reward is that of the end of an answer, pairs teach it, and a run of one is a reward."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_chat
from fledge.alignment.config import METHOD_SETTINGS, RewardConfig, RewardSettings
from fledge.alignment.preferences import encode_pairs, pair_batch
from fledge.alignment.reward_model import RewardModel, RewardObjective
from fledge.alignment.reward_scores import (
    CalibrationBin,
    ScoreModel,
    calibration,
    calibration_error,
    pair_rewards,
    score_pairs,
)
from fledge.alignment.setup import AlignSetup
from fledge.checkpoint.state import initial_state, weights_of
from fledge.core.config import Layer, build, merge, to_toml
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.datasets.examples import Example
from fledge.model.gpt import GPT
from fledge.runs.run_folder import RunFolder, create_run
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import add_chat_tokens
from fledge.training.setup import build_training
from tiny_chat import assistant, user

T = TypeVar("T")
MACHINE = Machine("cpu", "float32")
TOKENIZER = tiny_chat.chat_tokenizer()
TEMPLATE = tiny_chat.chat_template(TOKENIZER)
# The longer answer is chosen, the other begins alike.
PAIRS = [Example((user(f"{a}?"),), f"yes {'y' * (b + 1)}", f"yes {'y' * b}") for a in "abcde" for b in range(1, 6)]
SHAPE: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 32, "vocab_size": TOKENIZER.vocab_size}


def through(items: Iterable[T]) -> Iterator[T]:
    yield from items


def model(seed: int = 1, **changes: Any) -> GPT:
    made = tiny_chat.tiny_model(seed, **{**SHAPE, "value_head": True, **changes})
    assert made.value_head is not None
    torch.nn.init.normal_(made.value_head.weight, generator=torch.Generator().manual_seed(seed))
    return made


def method(examples: list[Example] = PAIRS, layer: Layer | None = None) -> RewardModel:
    given: Layer = {
        "align": {"method": "reward"},
        "model": {**SHAPE, "value_head": True},
        "optim": {"lr": 0.01, "warmup_steps": 0},
        "train": {"batch": 8, "steps": 60, "device": "cpu", "dtype": "float32", "compile": False, "eval_every": 20},
    }
    settings = build(METHOD_SETTINGS["reward"], merge(given, layer or {}))
    assert isinstance(settings, RewardSettings)
    return RewardModel(
        AlignSetup(settings, MACHINE, TOKENIZER, TEMPLATE, examples[:-5], examples[-5:], "", lambda: model())
    )


@given(st.lists(st.tuples(st.text("ab", max_size=9), st.text("cd", min_size=1, max_size=9)), min_size=1, max_size=5))
def test_reward_is_the_value_at_the_end_of_the_answer(texts: list[tuple[str, str]]) -> None:
    made = model().requires_grad_(False)
    pairs = encode_pairs([Example((user(q),), a, f"{a}!") for q, a in texts], TEMPLATE, 31)
    found = pair_rewards(made, pair_batch(pairs, 31))
    for pair, rewards in zip(pairs, found.tolist(), strict=True):
        for answer, reward in zip((pair.chosen, pair.rejected), rewards, strict=True):
            ids = torch.tensor([[*pair.prompt.tolist(), *answer.tolist()]])
            assert ids[0, -1] == tiny_chat.END
            assert reward == pytest.approx(float(made.values(ids)[0, -1]), abs=1e-5)


def test_answer_that_fills_the_context() -> None:
    made, room = model(), 31
    prompt_and_ends = 4  # <|user|> <|end|> <|assistant|> and the end of the answer
    pairs = encode_pairs([Example((user("q"),), "a" * (32 - 1 - prompt_and_ends), "b")], TEMPLATE, room)
    assert pairs[0].length == room
    assert pair_rewards(made, pair_batch(pairs, room)).isfinite().all()


def test_loss_by_hand() -> None:
    made = model().requires_grad_(False)
    batch = pair_batch(encode_pairs(PAIRS[:3], TEMPLATE, 31), 31)
    found = RewardObjective(RewardConfig(center=0.5))(made, batch)
    expected = 0.0
    for chosen, rejected in pair_rewards(made, batch).tolist():
        expected += math.log(1 + math.exp(rejected - chosen)) + 0.5 * (chosen + rejected) ** 2
    assert float(found.total) == pytest.approx(expected, rel=1e-5)
    assert int(found.count) == 3


@given(st.integers(1, 7))
def test_split_batch_adds_up(size: int) -> None:
    made = model().requires_grad_(False)
    batch = pair_batch(encode_pairs(PAIRS[:7], TEMPLATE, 31), 31)
    objective = RewardObjective(RewardConfig(center=0.1))
    whole, parts = objective(made, batch), [objective(made, piece) for piece in batch.split(size)]
    assert float(sum(part.total for part in parts)) == pytest.approx(float(whole.total), rel=1e-4)
    for name, (total, _) in whole.metrics.items():
        assert float(sum(part.metrics[name][0] for part in parts)) == pytest.approx(float(total), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("lora", [None, 4])
def test_learns_which_answer_is_preferred(lora: int | None) -> None:
    trained = method(layer={"model": {"lora": lora}, "optim": {"lr": 0.03}} if lora else None)
    step = build_training(trained.setup.settings, MACHINE, trained)
    frozen = {name for name, p in step.model.named_parameters() if not p.requires_grad}
    assert {"head.weight"} <= frozen
    assert ("embed.weight" in frozen) == (lora is not None)
    before = trained.evaluations(step.model, through).evaluate()
    assert before.metrics["val/accuracy"] == 0.5  # a new head gives every answer the same reward
    assert before.loss == pytest.approx(math.log(2))
    results = [step(n) for n in range(60)]
    after = trained.evaluations(step.model, through).evaluate()
    assert results[-1].objective_metrics["reward/accuracy"] > 0.9
    assert after.metrics["val/accuracy"] > 0.9
    assert after.loss < 0.5
    assert after.metrics["val/margin"] == pytest.approx(after.metrics["val/chosen"] - after.metrics["val/rejected"])
    assert after.metrics["val/chosen_std"] > 0


def test_tied_head_is_trained_as_the_embedding() -> None:
    made = method(layer={"model": {"tied": True, "head_bias": True}})
    changed = made.transform(model(tied=True, head_bias=True))
    assert changed.embed.weight.requires_grad
    assert changed.head.bias is not None
    assert not changed.head.bias.requires_grad


def test_sample_shows_both_rewards() -> None:
    made, scored = method(), model()
    sample = made.sample(scored, 3, through)
    [[chosen, rejected]] = score_pairs(scored, made.held_out[:1], made.room, MACHINE, through).tolist()
    assert sample.prompt == "user: e?\n"
    assert sample.text == f"chosen {chosen:+.3f}: yes yy\nrejected {rejected:+.3f}: yes y"
    assert sample.reward == pytest.approx(chosen - rejected)


def test_negative_weight_of_centering_is_refused() -> None:
    with pytest.raises(UserError, match=r"reward\.center cannot be -1"):
        RewardConfig(center=-1)


def deltas(*probabilities: float) -> torch.Tensor:
    """Pairs whose chosen answer is the better one with these probabilities."""
    return torch.tensor([[math.log(p / (1 - p)), 0.0] for p in probabilities])


def test_calibration_by_hand() -> None:
    bins = calibration(deltas(0.55, 0.45, 0.55, 0.55, 0.95, 0.95))
    assert [each.pairs for each in bins] == [4, 2]
    assert [each.confidence for each in bins] == pytest.approx([0.55, 0.95], abs=1e-6)
    assert [each.accuracy for each in bins] == [0.75, 1.0]
    assert calibration_error(bins) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6, abs=1e-6)


@given(st.lists(st.floats(-80, 80), min_size=1, max_size=30))
def test_calibration_counts_every_pair_once(margins: list[float]) -> None:
    bins = calibration(torch.tensor([[m, 0.0] for m in margins]))
    assert sum(each.pairs for each in bins) == len(margins)
    assert all(0.5 <= each.confidence <= 1 and 0 <= each.accuracy <= 1 for each in bins)
    assert 0 <= calibration_error(bins) <= 1


def test_calibrated_bins_have_no_error() -> None:
    assert calibration_error([CalibrationBin(10, 0.6, 0.6), CalibrationBin(5, 0.9, 0.9)]) == 0


@pytest.fixture
def reward_run(tmp_path: Path) -> RunFolder:
    return create_reward_run(tmp_path, "reward")


def create_reward_run(
    folder: Path, name: Literal["reward", "sft"], tokenizer: Tokenizer = TOKENIZER, lora: int | None = None
) -> RunFolder:
    made = model(lora=lora, vocab_size=tokenizer.vocab_size)
    for parameter_name, p in made.named_parameters():
        if parameter_name.endswith("lora_b"):
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(4))
    settings = build(METHOD_SETTINGS[name], {"model": vars(made.config), "align": {"method": name}})
    start = initial_state(weights_of(made), 0)
    return create_run(folder / name, to_toml(settings), {"started": "today"}, tokenizer, start)


@pytest.mark.parametrize("lora", [None, 3])
def test_run_of_a_reward_model_scores_answers(tmp_path: Path, lora: int | None) -> None:
    scored = ScoreModel.open(create_reward_run(tmp_path, "reward", lora=lora), MACHINE, TOKENIZER)
    assert scored.model.config.lora is None
    answers = [(f"{'q' * n}?", "a" * (n % 4 + 1)) for n in range(20)]
    batched = scored.scores(answers)
    assert batched == scored.scores(answers)
    assert [scored(*each) for each in answers] == pytest.approx(batched, abs=1e-5)
    assert len(set(batched)) > 10
    ids = torch.tensor([TEMPLATE.encode([user("q?"), assistant("aa")], add_generation_prompt=False)])
    assert scored("q?", "aa") == pytest.approx(float(scored.model.values(ids)[0, -1].detach()), abs=1e-5)


def test_text_longer_than_the_context_and_an_empty_answer_have_a_score(reward_run: RunFolder) -> None:
    scored = ScoreModel.open(reward_run, MACHINE, TOKENIZER)
    assert math.isfinite(scored("long " * 50, "answer"))
    assert math.isfinite(scored("q", "answer " * 50))
    assert math.isfinite(scored("", ""))


def test_special_tokens_in_an_answer_are_text(reward_run: RunFolder) -> None:
    scored = ScoreModel.open(reward_run, MACHINE, TOKENIZER)
    assert scored("q", "a<|end|>") != scored("q", "a")


def test_run_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'sft' is not a reward model"):
        ScoreModel.open(create_reward_run(tmp_path, "sft"), MACHINE, TOKENIZER)


def test_reward_model_of_another_tokenizer_is_refused(reward_run: RunFolder) -> None:
    other = add_chat_tokens(CharTokenizer("abc"))
    with pytest.raises(UserError, match="another tokenizer") as caught:
        ScoreModel.open(reward_run, MACHINE, other)
    assert "--init" in caught.value.hint


def test_pairs_that_differ_by_model_are_scored_in_one_order() -> None:
    """Evaluations of different sizes give a pair the same reward."""
    made, pairs = model(), encode_pairs(PAIRS, TEMPLATE, 31)
    whole = score_pairs(made, pairs, 31, MACHINE, through)
    assert torch.allclose(whole[:3], score_pairs(made, pairs[:3], 31, MACHINE, through), atol=1e-5)


def test_settings_without_held_out_pairs_are_never_due() -> None:
    made = method()
    made.held_out = []
    assert made.evaluations(model(), through).every == 0
    assert replace(made.config, center=0.01).center == 0.01
