"""What a run was trained for: pretraining, or a method of `fledge align`."""

from fledge.core.errors import UserError
from fledge.runs.run_folder import RunFolder

PRETRAIN = "pretrain"


def method_of(run: RunFolder) -> str:
    """pretrain, sft, reward, dpo, ppo, grpo or reinforce."""
    return str(run.config().get("align", {}).get("method", PRETRAIN))


def refuse_reward_model(run: RunFolder) -> None:
    """Called before a model shall write text."""
    if method_of(run) == "reward":
        raise UserError(
            f"'{run.name}' is a reward model: it scores answers, and writes none",
            f"measure it: fledge eval {run.reference}; use it: fledge align ppo --reward {run.reference}",
        )
