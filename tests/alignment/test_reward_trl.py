"""The reward model against TRL's RewardTrainer: the same exported model with the same score head, the same pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_chat
from fledge.alignment.config import RewardConfig
from fledge.alignment.preferences import encode_pairs, pair_batch
from fledge.alignment.reward_model import RewardObjective
from fledge.alignment.reward_scores import ScoreModel
from fledge.core.device import Machine
from fledge.datasets.examples import Example
from fledge.exchange import hf_config, names
from fledge.exchange.huggingface import write_hf_folder
from fledge.model.gpt import GPT
from fledge.model.init import merged_copy
from fledge.model.lora import VALUE_HEAD
from fledge.tokenizers.chat_template import CHAT_TEMPLATE
from tiny_chat import assistant, user

trl = pytest.importorskip("trl", "1.16")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

PAD = "~"  # in no text: transformers keeps the gradient of its embedding at zero
TOLERANCE = 1e-4
TALKS = [
    ([user("What is two and two?")], "It is four, as everybody knows.", "Five."),
    ([user("Hi")], "Hello!", "What do you want? I am busy, come again tomorrow."),
    ([user("a"), assistant("b"), user("And then?")], "Then comes c.", "Then comes d."),
]


def reward_model() -> GPT:
    return tiny_chat.noisy_llama(1, context=96, value_head=True)


def classifier(ours: GPT, folder: Path) -> tuple[Any, Any]:
    """transformers' class for sequence classification with our weights, and its tokenizer."""
    folder.mkdir()
    assert write_hf_folder(folder, merged_copy(ours), tiny_chat.chat_tokenizer()) == "LlamaForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, eos_token="<|end|>", pad_token=PAD, chat_template=CHAT_TEMPLATE
    )
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    assert ours.value_head is not None
    with torch.no_grad():
        theirs.score.weight.copy_(ours.value_head.weight)
    return theirs, tokenizer


@pytest.mark.parametrize("center", [0.0, 0.3])
def test_loss_metrics_and_gradients_equal_trl(tmp_path: Path, center: float) -> None:
    ours = reward_model()
    theirs, tokenizer = classifier(ours, tmp_path / "model")
    rows = [{"chosen": [*talk, assistant(good)], "rejected": [*talk, assistant(bad)]} for talk, good, bad in TALKS]
    config = trl.RewardConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=len(TALKS),
        center_rewards_coefficient=center or None,
        disable_dropout=True,
        report_to="none",
        use_cpu=True,
        bf16=False,
        max_length=96,
    )
    trainer = trl.RewardTrainer(
        theirs, config, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )
    their_batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(TALKS))])
    theirs.eval()
    their_loss = trainer.compute_loss(theirs, their_batch)
    their_loss.backward()

    examples = [Example(tuple(talk), good, bad) for talk, good, bad in TALKS]
    batch = pair_batch(encode_pairs(examples, tiny_chat.chat_template(), 95), 95)
    found = RewardObjective(RewardConfig(center=center))(ours, batch)
    loss = found.total / found.count
    loss.backward()
    assert abs(float(loss.detach()) / float(their_loss.detach()) - 1) < TOLERANCE
    for name, their_name in {"reward/accuracy": "accuracy", "reward/margin": "margin"}.items():
        total, count = found.metrics[name]
        expected = trainer._metrics["eval"][their_name][-1]
        assert float((total / count).detach()) == pytest.approx(expected, rel=TOLERANCE, abs=1e-6), name

    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert ours.head.weight.grad is None
    head = gradients.pop(VALUE_HEAD)
    architecture = hf_config.choose_hf_architecture(merged_copy(ours).config)
    converted = {**names.to_theirs(gradients, ours.config, architecture.names), "score.weight": head}
    expected_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert converted.keys() == expected_gradients.keys()
    for name, gradient in converted.items():
        assert float((gradient - expected_gradients[name]).norm() / expected_gradients[name].norm()) < TOLERANCE, name


def test_scores_equal_the_logits_of_transformers(tmp_path: Path) -> None:
    ours = reward_model()
    theirs, tokenizer = classifier(ours, tmp_path / "model")
    scored = ScoreModel(ours, tiny_chat.chat_template(), Machine("cpu", "float32"))
    answers = [(talk[0]["content"], good) for talk, good, _ in TALKS[:2]]
    for (prompt, answer), score in zip(answers, scored.scores(answers), strict=True):
        ids = tokenizer.apply_chat_template([user(prompt), assistant(answer)], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert score == pytest.approx(float(theirs(ids).logits), rel=TOLERANCE)
