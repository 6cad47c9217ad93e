"""DPO against TRL's DPOTrainer: the same exported model and reference, the same pairs, in float32."""

import math
from pathlib import Path
from typing import Any

import pytest

import tiny_chat
from fledge.alignment.config import DPOConfig
from fledge.alignment.dpo import REFERENCE, DPOObjective
from fledge.alignment.preferences import encode_pairs, pair_batch
from fledge.alignment.reference import reference_logprobs
from fledge.core.device import Machine
from fledge.datasets.examples import Example
from fledge.exchange import hf_config, names
from fledge.exchange.huggingface import write_hf_folder
from fledge.losses.cross_entropy import IGNORE
from fledge.model.gpt import GPT
from fledge.tokenizers.chat_template import CHAT_TEMPLATE
from tiny_chat import assistant, user

trl = pytest.importorskip("trl", "1.16")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

TOLERANCE = 1e-4
MACHINE = Machine("cpu", "float32")
TALKS = [
    ([user("What is two and two?")], "It is four, as everybody knows.", "Five."),
    ([user("Hi")], "Hello!", "What do you want? I am busy, come again tomorrow."),
    ([user("a"), assistant("b"), user("And then?")], "Then comes c.", "Then comes d."),
]


def model(seed: int) -> GPT:
    return tiny_chat.noisy_llama(seed, context=96)


def exported(ours: GPT, folder: Path) -> Any:
    folder.mkdir()
    assert write_hf_folder(folder, ours, tiny_chat.chat_tokenizer()) == "LlamaForCausalLM"
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def trl_step(tmp_path: Path, policy: GPT, reference: GPT, **settings: Any) -> tuple[Any, dict[str, Any], float, Any]:
    """Their trainer, their batch, and the loss of it; the gradients are in their model."""
    theirs = exported(policy, tmp_path / "policy")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        tmp_path / "policy", eos_token="<|end|>", pad_token="!", chat_template=CHAT_TEMPLATE
    )
    rows = [{"prompt": talk, "chosen": [assistant(good)], "rejected": [assistant(bad)]} for talk, good, bad in TALKS]
    trainer = trl.DPOTrainer(
        theirs,
        exported(reference, tmp_path / "reference"),
        trl.DPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=len(TALKS),
            activation_checkpointing=False,
            disable_dropout=True,
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_length=96,
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(TALKS))])
    loss = trainer.compute_loss(theirs, batch)
    loss.backward()
    return trainer, batch, float(loss.detach()), theirs


def our_batch(reference: GPT) -> Any:
    examples = [Example(tuple(talk), good, bad) for talk, good, bad in TALKS]
    pairs = encode_pairs(examples, tiny_chat.chat_template(), 96)
    return pair_batch(pairs, 96, {REFERENCE: reference_logprobs(reference, pairs, MACHINE)})


def difference(found: float, expected: float) -> float:
    return abs(found - expected) / max(abs(expected), 1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DPOConfig(), {"loss_type": "sigmoid", "beta": 0.1}),
        (DPOConfig(beta=0.5), {"loss_type": "sigmoid", "beta": 0.5}),
        (DPOConfig(loss="sigmoid_norm", beta=2), {"loss_type": "sigmoid_norm", "beta": 2.0}),
        (DPOConfig(loss="ipo"), {"loss_type": "ipo", "beta": 0.1}),
        (DPOConfig(loss="robust", label_smoothing=0.2), {"loss_type": "robust", "label_smoothing": 0.2}),
    ],
    ids=["sigmoid", "sigmoid-0.5", "sigmoid_norm", "ipo", "robust"],
)
def test_loss_metrics_and_gradients_equal_trl(tmp_path: Path, ours: DPOConfig, theirs: dict[str, Any]) -> None:
    policy, reference = model(1), model(2)
    trainer, their_batch, their_loss, their_model = trl_step(tmp_path, policy, reference, **theirs)
    batch = our_batch(reference)
    for side in (0, 1):  # the same tokens, and the same of them count
        chosen = slice(side * len(TALKS), (side + 1) * len(TALKS))
        mask = their_batch["completion_mask"][chosen][:, 1:]
        counted = [row[row != IGNORE].tolist() for row in batch.targets[:, side]]
        assert counted == [
            ids[keep.bool()].tolist() for ids, keep in zip(their_batch["input_ids"][chosen][:, 1:], mask, strict=True)
        ]

    found = DPOObjective(ours)(policy, batch)
    (found.total / found.count).backward()
    assert difference(float((found.total / found.count).detach()), their_loss) < TOLERANCE
    logged = {
        "dpo/margin": "rewards/margins",
        "dpo/accuracy": "rewards/accuracies",
        "dpo/chosen_reward": "rewards/chosen",
        "dpo/rejected_reward": "rewards/rejected",
        "dpo/chosen_logprob": "logps/chosen",
        "dpo/rejected_logprob": "logps/rejected",
    }
    for name, their_name in logged.items():
        total, count = found.metrics[name]
        assert difference(float((total / count).detach()), trainer._metrics["eval"][their_name][-1]) < TOLERANCE, name
    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(policy.parameters()))
    architecture = hf_config.choose_hf_architecture(policy.config)
    converted = names.to_theirs(gradients, policy.config, architecture.names)
    expected = {name: p.grad for name, p in their_model.named_parameters()}
    assert converted.keys() == expected.keys()
    for name, gradient in converted.items():
        assert float((gradient - expected[name]).norm() / expected[name].norm()) < TOLERANCE, name


def test_label_smoothing_equals_that_of_trl_for_one_pair(tmp_path: Path) -> None:
    """TRL has this formula (of the DPO paper's authors) in its loss "aot", which for a single pair is the same."""
    policy, reference = model(1), model(2)
    trainer, _, _, theirs = trl_step(tmp_path, policy, reference, loss_type="aot", label_smoothing=0.3, beta=0.2)
    for row in range(len(TALKS)):
        one = trainer.data_collator([trainer.train_dataset[row]])
        expected = float(trainer.compute_loss(theirs, one).detach())
        found = DPOObjective(DPOConfig(beta=0.2, label_smoothing=0.3))(policy, our_batch(reference).split(1)[row])
        assert difference(float(found.total.detach()), expected) < TOLERANCE


def test_loss_of_the_reference_itself_is_log_2() -> None:
    policy = model(1)
    found = DPOObjective(DPOConfig())(policy, our_batch(policy))
    assert float((found.total / found.count).detach()) == pytest.approx(math.log(2), abs=1e-6)
