"""SFT against TRL's SFTTrainer: the same exported model, the same conversations, in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_chat
from fledge.alignment.sft import AnswerAccuracy, AnswerLoss, encode_conversations
from fledge.batches.loader import Batch
from fledge.batches.packing import PackedReader
from fledge.datasets.conversations import Reader, find_format
from fledge.datasets.records import Record
from fledge.exchange import hf_config, names
from fledge.exchange.huggingface import write_hf_folder
from fledge.losses.cross_entropy import full_logits_loss
from fledge.model.gpt import GPT
from tiny_chat import assistant, user

trl = pytest.importorskip("trl", "1.16")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

TOLERANCE = 1e-4
CONTEXT = 96
TEMPLATE = (  # ours, with the marks by which transformers finds the answers
    "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content }}<|end|>{% endgeneration %}{% else %}{{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TALKS: list[dict[str, Any]] = [
    {"messages": [user("What is two and two?"), assistant("It is four.")]},
    {"messages": [user("Hi"), assistant("Hello!"), user("a?"), assistant("b")]},
    {"messages": [{"role": "system", "content": "Be short."}, user("Hi"), assistant("Yes.")]},
]
ANSWERS: list[dict[str, Any]] = [
    {"prompt": [user("What is two and two?")], "completion": [assistant("It is four.")]},
    {"prompt": [{"role": "system", "content": "Be short."}, user("a?")], "completion": [assistant("b")]},
]


def model() -> GPT:
    return tiny_chat.noisy_llama(1, context=CONTEXT)


def our_batch(records: list[dict[str, Any]], *, packed: bool) -> Batch:
    form = find_format(Record("", "", records[0]))
    examples = [Reader("", form).example(record) for record in records]
    conversations = encode_conversations(examples, tiny_chat.chat_template(), CONTEXT)
    if packed:
        reader = PackedReader(conversations, CONTEXT, 0)
        assert len(reader.rows) < len(records)
        return reader.batch(range(len(reader.rows)))
    alone = [PackedReader([each], CONTEXT, 0).batch([0]) for each in conversations]
    parts = (
        torch.cat(each) for each in zip(*((b.inputs, b.targets, b.extra["positions"]) for b in alone), strict=True)
    )
    inputs, targets, positions = parts
    return Batch(inputs, targets, {"positions": positions})


def their_step(tmp_path: Path, ours: GPT, records: list[dict[str, Any]], **settings: Any) -> tuple[Any, Any, float]:
    """Their trainer, their model with gradients, and the loss of all records."""
    folder = tmp_path / "model"
    folder.mkdir()
    assert write_hf_folder(folder, ours, tiny_chat.chat_tokenizer()) == "LlamaForCausalLM"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, eos_token="<|end|>", pad_token="!", chat_template=TEMPLATE
    )
    config = trl.SFTConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=len(records),
        activation_checkpointing=False,
        report_to="none",
        use_cpu=True,
        bf16=False,
        max_length=CONTEXT,
        **settings,
    )
    rows = datasets.Dataset.from_list(records)
    trainer = trl.SFTTrainer(theirs, config, train_dataset=rows, processing_class=tokenizer)
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(theirs, batch)
    loss.backward()
    return trainer, theirs, float(loss.detach())


def check_equal(ours: GPT, batch: Batch, trainer: Any, theirs: Any, their_loss: float) -> None:
    found = AnswerLoss(full_logits_loss)(ours, batch)
    loss = found.total / found.count
    loss.backward()
    assert float(loss.detach()) == pytest.approx(their_loss, rel=TOLERANCE)
    with torch.no_grad():
        correct, count = AnswerAccuracy()(ours, batch).metrics["sft/accuracy"]
    assert float(correct / count) == pytest.approx(trainer._metrics["eval"]["mean_token_accuracy"][-1])
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    converted = names.to_theirs(gradients, ours.config, hf_config.choose_hf_architecture(ours.config).names)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert converted.keys() == expected.keys()
    for name, gradient in converted.items():
        assert float((gradient - expected[name]).norm() / expected[name].norm()) < TOLERANCE, name


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("theirs_packed", [False, True], ids=["TRL padded", "TRL packed"])
@pytest.mark.parametrize(
    ("records", "settings"),
    [(TALKS, {"assistant_only_loss": True}), (ANSWERS, {"completion_only_loss": True})],
    ids=["assistant only", "completion only"],
)
def test_loss_accuracy_and_gradients_equal_trl(
    tmp_path: Path, records: list[dict[str, Any]], settings: dict[str, Any], packed: bool, theirs_packed: bool
) -> None:
    ours, batch = model(), our_batch(records, packed=packed)
    trainer, theirs, their_loss = their_step(tmp_path, ours, records, packing=theirs_packed, **settings)
    check_equal(ours, batch, trainer, theirs, their_loss)
    assert theirs_packed is (len(trainer.train_dataset) < len(records))
