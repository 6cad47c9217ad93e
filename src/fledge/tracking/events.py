"""Everything that can happen in a run, as typed records. The tracker hands each one to all sinks, in order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Training starts, or resumes, after `step` finished steps."""

    run: str
    step: int
    steps: int
    parameters: int
    device: str
    dtype: str
    compiled: bool
    eval_every: int = 0
    sample_every: int = 0
    whole_split_passes: float = 0.0  # what the evaluations at the end cost, in evaluations of the sample


@dataclass(frozen=True)
class Activity:
    """What the run is doing now, beside its steps: "evaluating", "compiling"."""

    step: int
    name: str


@dataclass(frozen=True)
class Metrics:
    """Measured values of a step by name: `train/loss`, `train/lr`, `val/bits_per_byte`.

    Names are open: every sink follows the names that occur. The part before the slash is the group (a dataset split,
    or an algorithm as in `ppo/kl`), and one step may have several such events.
    """

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Sample:
    """Text that the model has generated during training."""

    step: int
    prompt: str
    text: str
    reward: float | None = None  # of the answer, where something rewards it


@dataclass(frozen=True)
class Saved:
    """A checkpoint is on disk."""

    step: int
    val_loss: float | None
    seconds: float  # until it was on disk
    blocked_seconds: float = 0.0  # how long training waited for it
    scheduled: bool = True  # at a fixed step; False: because of a clock or a signal
    weights_only: bool = False


@dataclass(frozen=True)
class Anomaly:
    """A step with a non-finite loss or gradient, or with a loss spike."""

    step: int
    reason: str
    origin: str  # the first weight, layer or gradient that is not finite
    loss: float
    grad_norm: float
    samples: tuple[int, int]  # first and last sample of its batch; `fledge data show RUN --step N` prints them


@dataclass(frozen=True)
class RolledBack:
    """Training went back to the checkpoint of `step` and skips the batches that led to `failed_step`."""

    step: int
    failed_step: int
    reason: str
    skipped_batches: tuple[int, int]  # first and last


@dataclass(frozen=True)
class StoppedEarly:
    """`step` is the last one of the run: none of the last `evaluations` was better than that of `best_step`."""

    step: int
    evaluations: int
    best_step: int
    best: float
    measure: str = "validation loss"  # or "reward"


@dataclass(frozen=True)
class StepsPlanned:
    """Decided after `step`, for a run with train.minutes: it has `steps` steps in all, and had `before` until then."""

    step: int
    steps: int
    before: int
    seconds_left: float  # for the steps that are still to be made, and what is done between them
    step_seconds: float  # as measured; 0: not yet
    limited: bool = False  # there is time for more, but they are limited by train.step_limit


@dataclass(frozen=True)
class Notice:
    """A message for the user."""

    step: int
    text: str


@dataclass(frozen=True)
class CompileChecked:
    """The first step was computed by compiled and by eager code. If they differ, training continues eagerly."""

    step: int
    ok: bool
    reason: str


@dataclass(frozen=True)
class Ended:
    step: int
    reason: str  # "finished", "interrupted" or "failed"
    seconds: float
    peak_memory: int | None = None  # bytes


Event = (
    Started
    | Activity
    | Metrics
    | Sample
    | Saved
    | Anomaly
    | RolledBack
    | StoppedEarly
    | StepsPlanned
    | CompileChecked
    | Notice
    | Ended
)
