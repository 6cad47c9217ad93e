"""GRPO against TRL's GRPOTrainer: advantages, losses and gradients of the same exported model, in float32.

TRL gets the answers instead of generating them; from there on its own code runs.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_chat
from aligning import make_setup
from fledge.alignment.config import GRPOConfig
from fledge.alignment.grpo import GRPO, GRPOObjective
from fledge.alignment.rollout import Answer, to_batch
from fledge.batches.loader import Batch
from fledge.exchange import hf_config, names
from fledge.exchange.huggingface import write_hf_folder
from fledge.model.gpt import GPT

trl = pytest.importorskip("trl", "1.16")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

TOLERANCE = 1e-4
GROUP, MAX_TOKENS = 4, 9
TOKENIZER = tiny_chat.chat_tokenizer()
END = int(TOKENIZER.to_json()["added_tokens"][-1]["id"])
PROMPTS = ["two and two", "a"]
ANSWERS = ["four", "4", "five, six", "fou", "b", "bbb", "c", "ab"]
REWARDS = [1.0, 0.5, 0.0, 0.9, 1.0, 1.0, 0.0, -0.5]


def ids_of(text: str) -> list[int]:
    return [int(i) for i in TOKENIZER.encode(text)]


def tiny_model(seed: int) -> GPT:
    return tiny_chat.noisy_llama(seed, context=64)


ANSWER_IDS = [[*ids_of(text), END][:MAX_TOKENS] for text in ANSWERS]


def trl_batch(policy: GPT, folder: Path, **settings: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Their trainer, their model, and their batch with advantages."""
    folder.mkdir()
    assert write_hf_folder(folder, policy, TOKENIZER) == "LlamaForCausalLM"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, eos_token="<|end|>", pad_token="!")
    trainer = trl.GRPOTrainer(
        theirs,
        reward_funcs=lambda **_: REWARDS,
        args=trl.GRPOConfig(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=len(ANSWERS),
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            report_to="none",
            use_cpu=True,
            bf16=False,
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=tokenizer,
    )
    theirs.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._generate_single_turn = lambda *_: (ANSWER_IDS, None)
    inputs = [{"prompt": prompt} for prompt in PROMPTS for _ in range(GROUP)]
    return trainer, theirs, trainer._generate_and_score_completions(inputs)


def our_batch(config: GRPOConfig, policy: GPT) -> Batch:
    """The same rollout, as the method prepares it."""
    answers = [Answer(tuple(ids), "", ids[-1] != END, (0.0,) * len(ids)) for ids in ANSWER_IDS]
    prompts = [ids_of(prompt) for prompt in PROMPTS for _ in range(GROUP)]
    width = max(len(prompt) + len(answer.ids) - 1 for prompt, answer in zip(prompts, answers, strict=True))
    batch = to_batch(prompts, answers, REWARDS, width)
    setup = make_setup("grpo", {"grpo": {"group": GROUP}, "rollout": {"prompts": 2}})
    method = GRPO(setup)
    method.config = config
    found, _ = method.prepare(batch, lambda fn: fn(batch))
    return Batch(batch.inputs, batch.targets, {**batch.extra, **found})


def aligned(theirs: Tensor, batch: Batch) -> Tensor:
    """[B, C], a column for each token of the answer → [B, T], where ours stand."""
    ours = torch.zeros(batch.targets.shape)
    for row, ids in enumerate(ANSWER_IDS):
        first = len(ids_of(PROMPTS[row // GROUP])) - 1
        ours[row, first : first + len(ids)] = theirs[row, : len(ids)]
    return ours


def noisy_logprobs(seed: int) -> Tensor:
    """Far from the model's own in both directions, so that ratios are clipped."""
    return torch.randn(len(ANSWERS), max(map(len, ANSWER_IDS)), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_equal_trl(tmp_path: Path, scale: Any) -> None:
    policy = tiny_model(1)
    _, _, theirs = trl_batch(policy, tmp_path / "policy", scale_rewards=scale)
    ours = our_batch(GRPOConfig(group=GROUP, scale=scale), policy)
    assert torch.allclose(ours.extra["advantages"], theirs["advantages"], rtol=TOLERANCE, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "kl_coef", "unbiased"),
    [
        *(("grpo", 0.0, True), ("grpo", 0.3, True), ("dapo", 0.0, True)),
        *(("dapo", 0.3, False), ("bnpo", 0.3, True), ("dr_grpo", 0.0, True)),
    ],
)
def test_loss_and_gradients_equal_trl(tmp_path: Path, loss: Any, kl_coef: float, unbiased: bool) -> None:
    policy = tiny_model(1)
    options = {"epsilon": 0.2, "epsilon_high": 0.28, "beta": kl_coef, "use_bias_correction_kl": unbiased}
    trainer, their_model, inputs = trl_batch(policy, tmp_path / "policy", loss_type=loss, **options)
    completions = inputs["completion_ids"].shape[1]
    with torch.no_grad():
        own = trainer._get_per_token_logps_and_entropies(
            their_model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            completions,
        )[0]
    inputs["old_per_token_logps"] = own + 0.4 * noisy_logprobs(5)
    inputs["ref_per_token_logps"] = own + 0.4 * noisy_logprobs(6)
    their_loss = trainer._compute_loss(their_model, inputs)
    their_loss.backward()

    batch = our_batch(GRPOConfig(group=GROUP), policy)
    assert torch.equal(batch.extra["weight"], torch.ones(len(ANSWERS)))
    batch = Batch(
        batch.inputs,
        batch.targets,
        {
            **batch.extra,
            "old_logprobs": aligned(inputs["old_per_token_logps"], batch),
            "ref_logprobs": aligned(inputs["ref_per_token_logps"], batch),
        },
    )
    config = GRPOConfig(group=GROUP, loss=loss, kl_coef=kl_coef, kl_unbiased=unbiased)
    found = GRPOObjective(config, MAX_TOKENS)(policy, batch)
    (found.total / found.count).backward()
    assert found.total.item() / found.count.item() == pytest.approx(their_loss.item(), rel=TOLERANCE)
    clipped, tokens = found.metrics["grpo/clip_fraction"]
    assert 0.1 < (clipped / tokens).item() == pytest.approx(trainer._metrics["train"]["clip_ratio/region_mean"][-1])

    gradients = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    architecture = hf_config.choose_hf_architecture(policy.config)
    converted = names.to_theirs(gradients, policy.config, architecture.names)
    expected = {name: p.grad for name, p in their_model.named_parameters()}
    assert converted.keys() == expected.keys()
    for name, gradient in converted.items():
        assert float((gradient - expected[name]).norm() / expected[name].norm()) < TOLERANCE, name
