"""How often a run is evaluated, and on how many tokens, so that a validation curve costs little.

Decided from counts of steps and tokens, never from a clock: a resumed run repeats it.
"""

import math

EVALUATION_SHARE = 0.035  # of the compute of a run, for all evaluations on the sample together
FORWARD_COST = 1 / 3  # of a token in an evaluation, where a token in training costs 1
FEWEST, USUAL, MOST = 10, 16, 20  # evaluations in a run whose interval is not set
EVALUATION_SECONDS = 20.0  # in a run whose time is given
MIN_SAMPLE = 2048  # tokens: fewer say nothing
MIN_WINDOWS = 16  # of a sample: fewer have an interval too wide to be of use
MAX_SAMPLE = 2**20  # tokens: more hardly narrow the interval
WHOLE_SPLIT_SHARE = 0.25  # of the compute of a run: a pass over the whole split at the end may cost no more
WHOLE_SPLIT_PASSES = 2  # at most: for the last weights, and for the best checkpoint where that is another


def evaluation_interval(steps: int, step_tokens: int, context: int, minutes: float | None = None) -> int:
    """Steps between evaluations: ten to twenty in a run, fewer where so many would cost more than EVALUATION_SHARE, or
    where a run of so many `minutes` would have them, and their checkpoints, more often than every EVALUATION_SECONDS.
    """
    affordable = _budget(steps, step_tokens) / smallest_sample(context) - 1  # one is before the first step
    if minutes is not None:
        affordable = min(affordable, 60 * minutes / EVALUATION_SECONDS)
    if affordable < FEWEST:
        return min(steps, round_up(steps / max(1, affordable)))
    interval = round_up(steps / min(USUAL, affordable))
    return interval if interval * FEWEST <= steps else round_up(steps / min(MOST, affordable))


def round_up(interval: float) -> int:
    """Up to a round number: 1 … 10, 20, 25, 50, 100, 200, 250, …"""
    if interval <= 10:
        return max(1, math.ceil(interval))
    power = 10 ** math.floor(math.log10(interval))
    return next(int(n * power) for n in (1, 2, 2.5, 5, 10) if n * power >= interval)


def sample_size(steps: int, step_tokens: int, context: int, eval_every: int) -> int:
    """Tokens of the validation sample with which all evaluations together cost EVALUATION_SHARE."""
    if not eval_every:
        return smallest_sample(context)
    evaluations = len(scheduled_steps(eval_every, steps)) + 1
    affordable = int(_budget(steps, step_tokens) / evaluations)
    return max(smallest_sample(context), min(MAX_SAMPLE, affordable))


def smallest_sample(context: int) -> int:
    return max(MIN_SAMPLE, MIN_WINDOWS * context)


def scheduled_steps(every: int, steps: int) -> range | list[int]:
    """Every `every`-th step, and the last; none if `every` is 0."""
    if not every:
        return []
    regular = range(every, steps + 1, every)
    return regular if steps % every == 0 else [*regular, steps]


def evaluates_whole_split(steps: int, step_tokens: int, val_tokens: int) -> bool:
    """Whether a run ends with a pass over the whole split."""
    return val_tokens * FORWARD_COST <= WHOLE_SPLIT_SHARE * steps * step_tokens


def _budget(steps: int, step_tokens: int) -> float:
    """Tokens that all evaluations together may have."""
    return EVALUATION_SHARE / FORWARD_COST * steps * step_tokens
