"""Preferences from a policy and a reward: several answers to each prompt, the best and the worst of them a pair.

    prompts → answers of the policy, through the engine → rewards → chosen and rejected

DPO on such pairs is on-policy: both answers are ones that the model gives, so it learns from its own mistakes.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fledge.alignment.config import RolloutConfig
from fledge.alignment.rollout import Answer, Generator, Prompt, episode_seed
from fledge.alignment.scoring import score
from fledge.alignment.setup import Reward
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.core.files import write_atomic
from fledge.core.formatting import counted
from fledge.core.progress import notice, progress
from fledge.datasets.examples import Example
from fledge.inference.request import Sampling
from fledge.model.gpt import GPT
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate

CHOSEN_REWARD, REJECTED_REWARD = "chosen_reward", "rejected_reward"  # in the fields of an example
LONG, EQUAL, UNFINISHED = "prompts too long", "all answers rewarded alike", "no good answer finished"


def make_preferences(
    model: GPT,
    examples: Sequence[Example],
    reward: Reward,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    machine: Machine,
    config: RolloutConfig,
    *,
    samples: int = 4,
    seed: int = 0,
) -> list[Example]:
    """At most one pair for each prompt; those without one are counted in a notice. Every answer has its own seed.

    An answer that was cut at `rollout.max_tokens` is never chosen: the model would learn to end in the middle.
    """
    if samples < 2:
        raise UserError(f"a pair cannot be made of {counted(samples, 'answer')}", "sample at least 2 for each prompt")
    generate = Generator(config, machine, tokenizer, template.stop_tokens)
    room, found, left_out = model.config.context - config.max_tokens, list[Example](), Counter[str]()
    for first in progress(range(0, len(examples), config.prompts), "sampling answers"):
        numbers = range(first, min(first + config.prompts, len(examples)))
        prompts = {number: Prompt.of(examples[number], template) for number in numbers}
        fitting = [number for number in numbers if len(prompts[number].ids) <= room]
        left_out[LONG] += len(numbers) - len(fitting)
        ids = [prompts[number].ids for number in fitting for _ in range(samples)]
        seeds = [episode_seed(seed, 0, number, sample) for number in fitting for sample in range(samples)]
        answers = generate(model, ids, [Sampling(temperature=config.temperature, seed=each) for each in seeds])
        for place, number in enumerate(fitting):
            own = answers[place * samples : (place + 1) * samples]
            pair = best_and_worst(examples[number], prompts[number], own, reward)
            if isinstance(pair, Example):
                found.append(pair)
            else:
                left_out[pair] += 1
    _tell(len(found), +left_out)
    return found


def best_and_worst(example: Example, prompt: Prompt, answers: Sequence[Answer], reward: Reward) -> Example | str:
    """The pair, or why there is none. Of answers with equal rewards, the first."""
    texts = [answer.text.strip() for answer in answers]
    kept = [number for number, text in enumerate(texts) if text]
    rewards = {number: score(reward, prompt.text, texts[number], prompt.target) for number in kept}
    finished = [number for number in kept if not answers[number].truncated]
    if not finished:
        return UNFINISHED
    best, worst = max(finished, key=lambda number: rewards[number]), min(kept, key=lambda number: rewards[number])
    if rewards[best] <= rewards[worst]:
        return EQUAL if rewards[best] == max(rewards.values()) else UNFINISHED
    numbers = {CHOSEN_REWARD: f"{rewards[best]:g}", REJECTED_REWARD: f"{rewards[worst]:g}"}
    return replace(example, chosen=texts[best], rejected=texts[worst], fields={**example.fields, **numbers})


def _tell(pairs: int, left_out: Counter[str]) -> None:
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in left_out.most_common())
    if not pairs:
        raise UserError(
            f"no pair could be made ({reasons or 'there are no prompts'})",
            "sample more answers, at a higher temperature, or use a reward that differs between answers",
        )
    notice(f"{counted(pairs, 'pair')} made" + (f"; prompts without one: {reasons}" if reasons else ""))


def write_preferences(examples: Sequence[Example], path: Path) -> None:
    """JSONL: {"prompt": [messages], "chosen": "…", "rejected": "…", "chosen_reward": "…", …}"""
    rows = (
        {
            "prompt": [dict(message) for message in example.messages],
            "chosen": example.chosen,
            "rejected": example.rejected,
            **example.fields,
        }
        for example in examples
    )
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
