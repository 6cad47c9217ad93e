"""Opens a method: from the settings of an alignment run to everything that its trainer needs.

    settings + initial policy + tokenizer → data, reference, reward → AlignSetup → SFT, DPO, PPO, …

Used when a run starts and when it is resumed or evaluated, so all of it follows from the settings and the run folder.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fledge.alignment.config import AlignSettings, OnlineSettings
from fledge.alignment.data import AlignData, load_data
from fledge.alignment.dpo import DPO
from fledge.alignment.grpo import GRPO
from fledge.alignment.ppo import PPO
from fledge.alignment.reinforce import Reinforce
from fledge.alignment.reward_model import RewardModel
from fledge.alignment.reward_scores import ScoreModel
from fledge.alignment.rewards import RewardFile, open_reward, rule_of
from fledge.alignment.setup import AlignSetup, Reward
from fledge.alignment.sft import SFT
from fledge.checkpoint.state import load_weights
from fledge.core.device import Machine
from fledge.model.gpt import GPT
from fledge.model.init import build_for_loading
from fledge.model.lora import plain_config
from fledge.runs.run_folder import open_run
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.training.init_from import InitialWeights
from fledge.training.method import Method

METHODS: dict[str, Callable[[AlignSetup[Any]], Method]] = {
    "sft": SFT,
    "reward": RewardModel,
    "dpo": DPO,
    "ppo": PPO,
    "grpo": GRPO,
    "reinforce": Reinforce,
}


def open_method(
    settings: AlignSettings,
    machine: Machine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    initial: InitialWeights,
    runs: Path,
    reward_files: Sequence[RewardFile] = (),
) -> Method:
    """initial: where the run starts from, which is also the reference model. reward_files: those of align.reward."""
    data = load_data(settings.align, settings.train.seed)
    setup = AlignSetup(
        settings=settings,
        machine=machine,
        tokenizer=tokenizer,
        template=template,
        train=data.train,
        val=data.val,
        fingerprint=data.fingerprint,
        reference=partial(load_reference, initial, settings, tokenizer, machine),
        reward=find_reward(settings, machine, tokenizer, runs, reward_files, data),
    )
    return METHODS[settings.align.method](setup)


def find_reward(
    settings: AlignSettings,
    machine: Machine,
    tokenizer: Tokenizer,
    runs: Path,
    files: Sequence[RewardFile],
    data: AlignData,
) -> Reward | None:
    """What align.reward names; else the rules of the tasks, where the method needs one."""

    def open_model(name: str) -> Reward:
        run = open_run(name, runs, default="best")
        return ScoreModel.open(run, machine, tokenizer)

    if settings.align.reward:
        return open_reward(settings.align.reward, settings.align.reward_weights, files, open_model)
    return rule_of([*data.train, *data.val]) if isinstance(settings, OnlineSettings) else None


def load_reference(initial: InitialWeights, settings: AlignSettings, tokenizer: Tokenizer, machine: Machine) -> GPT:
    """The policy before its first update, frozen."""
    plain = plain_config(settings.model)
    model = build_for_loading(plain)
    load_weights(model, initial.weights(plain, settings.train.seed, tokenizer.vocab_size))
    return model.to(machine.device).eval().requires_grad_(False)
