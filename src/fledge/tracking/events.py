"""What happens in a run, as typed records. Whoever listens (sinks.py, terminal.py) gets each one, in order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on, after `step` finished steps."""

    run: str
    step: int
    steps: int
    parameters: int
    device: str
    dtype: str
    compiled: bool


@dataclass(frozen=True)
class Stepped:
    step: int
    tokens: int  # seen since the run began
    loss: float
    lr: float
    grad_norm: float
    step_seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Evaluated:
    step: int
    split: str
    loss: float
    perplexity: float
    bits_per_byte: float
    accuracy: float
    tokens: int
    context: int
    seconds: float


@dataclass(frozen=True)
class Sampled:
    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    step: int
    val_loss: float | None
    seconds: float  # until it was on the disk
    held: float = 0.0  # of which training stood still


@dataclass(frozen=True)
class Anomaly:
    """A step whose numbers are none, or far from usual."""

    step: int
    what: str
    where: str  # the first weight, layer or gradient that is no number
    loss: float
    grad_norm: float
    samples: tuple[int, int]  # the first and the last of its batch; `fledge data show RUN --step N` prints them


@dataclass(frozen=True)
class RolledBack:
    """Training has gone back to `step`, and goes on past the text that led to `failed`."""

    step: int
    failed: int
    what: str
    batches: tuple[int, int]  # the first and the last that are passed over


@dataclass(frozen=True)
class Notice:
    """Anything a person should know."""

    step: int
    text: str


@dataclass(frozen=True)
class CompileChecked:
    """Compiled and eager code have computed the same batch. Where they differ, the eager code trains."""

    step: int
    ok: bool
    reason: str


@dataclass(frozen=True)
class Ended:
    step: int
    reason: str  # "finished" or "interrupted"
    seconds: float
    memory: int | None = None  # the most bytes held meanwhile


Event = Started | Stepped | Evaluated | Sampled | Saved | Anomaly | RolledBack | CompileChecked | Notice | Ended
