"""Rewards of answers, checked: a reward function comes from a user, and may fail in any way."""

import math
import traceback
from collections.abc import Sequence

from fledge.alignment.setup import Reward
from fledge.core.errors import UserError

SHOWN = 200  # characters of a prompt or an answer in an error message
MAX_REWARD = 1e18  # the square of a larger one is no 32-bit number
LARGE = 100.0  # a standard deviation of rewards from which a warning is due


def score(reward: Reward, prompt: str, answer: str, target: str | None) -> float:
    """UserError where the function fails or its result is no finite number."""
    shown = f"prompt {_shown(prompt)}, answer {_shown(answer)}, target {_shown(target) if target else None}"
    try:
        value = float(reward(prompt, answer, target))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = (
            f"the reward function failed in {frame.filename}, line {frame.lineno}: {type(error).__name__}: {error}"
        )
        raise UserError(message, f"it was called with {shown}") from error
    if not math.isfinite(value):
        raise UserError(f"the reward of an answer is {value}", f"a reward must be a finite number; it was of {shown}")
    if abs(value) > MAX_REWARD:
        raise UserError(
            f"the reward of an answer is {value:g}, too large to learn from", f"scale it; it was of {shown}"
        )
    return value


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def clip(rewards: Sequence[float], limit: float) -> list[float]:
    """Rewards within -limit … limit; 0: no limit."""
    return [min(limit, max(-limit, value)) for value in rewards] if limit else list(rewards)


def warnings(mean: float, std: float) -> list[str]:
    """About the rewards of an iteration."""
    if std == 0:
        return [
            f"every answer of this rollout has the reward {mean:g}, so nothing can be learned from it:"
            " use a reward that differs, an easier task, or a higher --rollout.temperature"
        ]
    if std > LARGE or abs(mean) > LARGE * 10:
        return [
            f"rewards are large (mean {mean:.3g}, standard deviation {std:.3g}), which makes training"
            " unstable: scale them, or limit them with --rollout.reward_clip 10"
        ]
    return []
