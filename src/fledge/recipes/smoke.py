"""Try this machine out in seconds: train a tiny model, kill it, resume it, evaluate it, generate with it.

    train (a process of its own) → save → kill -9 → resume → evaluate → generate

All in a temporary folder, which is removed. The text is the source of fledge's own model.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.formatting import printable
from fledge.core.jobs import STOPPED, Job, logged_error
from fledge.core.progress import notice
from fledge.recipes.evaluate import evaluate
from fledge.recipes.generate import generate
from fledge.recipes.resume import resume
from fledge.runs.run_folder import RunFolder
from fledge.runs.status import last_saved_step
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events

RUN, STEPS = "smoke", 200
OUTPUT = "output"  # of training
TOML = f"""
[data]
val = 0.1
[tokenizer]
kind = "char"
[model]
n_layer = 2
n_head = 2
n_embd = 32
context = 32
attention = "sdpa"
[optim]
lr = 0.01
min_lr = 0.001
warmup_steps = 10
[train]
steps = {STEPS}
batch = 8
compile = false
chunked_loss = false
log_every = 1
eval_every = 200
sample_every = 0
save_every = 10
history = 5
"""
TIMEOUT = 120.0  # seconds until there must be a checkpoint, on the slowest machine
POLL_SECONDS = 0.002


@dataclass(frozen=True)
class SmokeResult:
    device: str
    dtype: str
    first_loss: float
    last_loss: float
    killed_at: int  # the last step that had been logged
    resumed_from: int
    steps: int
    val_loss: float
    text: str  # what it has generated
    seconds: float


def smoke() -> SmokeResult:
    """Raise `UserError` at the first stage that does not work; say in a line each what did."""
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fledge-smoke-") as name:
        folder = Path(name)
        run = RunFolder(folder / "runs" / RUN)
        characters = write_inputs(folder)
        report_stage("text", f"{characters:,} characters")
        killed_at = train_and_kill(folder, run)
        first, last, resumed_from = resume_to_the_end(folder, run)
        found = evaluate(RUN, runs=run.folder.parent)
        report_stage("evaluate", f"validation loss {found.loss:.2f}")
        text = next(generate(RUN, ["def "], runs=run.folder.parent, tokens=40).texts()).text
        if not text:
            raise UserError("the model generated no text", "see: fledge doctor")
        report_stage("generate", printable(f"def {text}").splitlines()[0])
        device = next(event["device"] for event in read_events(run.folder) if event["event"] == "Started")
        seconds = time.perf_counter() - begun
    return SmokeResult(device, found.dtype, first, last, killed_at, resumed_from, STEPS, found.loss, text, seconds)


def report_stage(stage: str, text: str) -> None:
    notice(f"{stage:<10} {text}")


def write_inputs(folder: Path) -> int:
    """The settings and the text; returns its length."""
    (folder / "smoke.toml").write_text(TOML)
    sources = sorted(resources.files("fledge.model").iterdir(), key=lambda file: file.name)
    text = "\n".join(file.read_text(encoding="utf-8") for file in sources if file.name.endswith(".py"))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return len(text)


def train_and_kill(folder: Path, run: RunFolder) -> int:
    """Train beyond a checkpoint, and kill the process without warning. Returns the last logged step."""
    words = ("train", str(folder / "smoke.toml"), "--run", RUN, "--data.corpus", str(folder / "text.txt"))
    with child(folder, words) as process:
        deadline = time.monotonic() + TIMEOUT
        while not 0 < last_saved_step(run) < last_step(run):
            if process.poll() is not None or time.monotonic() > deadline:
                raise failure("training", folder)
            time.sleep(POLL_SECONDS)
        process.kill()
    step = last_step(run)
    report_stage("train", f"{step} steps in a process of its own, with checkpoints")
    report_stage("kill -9", f"after step {step}")
    return step


def last_step(run: RunFolder) -> int:
    try:
        return read_metrics(run.folder).last_step
    except UserError:  # it has not begun
        return 0


def resume_to_the_end(folder: Path, run: RunFolder) -> tuple[float, float, int]:
    """The first and the last loss, and the step that it was resumed from. No step may be missing, or twice."""
    code = Job(partial(resume, RUN, runs=run.folder.parent), folder / OUTPUT).run()
    if code in STOPPED:
        raise KeyboardInterrupt
    if code:
        raise failure("resuming", folder)
    metrics = read_metrics(run.folder)
    losses = metrics.measured("train/loss")
    resumed_from = max(event["step"] for event in read_events(run.folder) if event["event"] == "Started")
    report_stage("resume", f"from step {resumed_from} to {metrics.last_step}, loss {losses[0]:.2f} → {losses[-1]:.2f}")
    steps = [int(step) for step in metrics["step"]]
    if not resumed_from or steps != list(range(steps[0], STEPS + 1)):
        raise UserError("after resuming, steps are missing or recorded twice", "please report this")
    if not losses[-1] < losses[0]:
        raise UserError(
            f"the loss did not fall: {losses[0]:.3f} → {losses[-1]:.3f}", "this device computes wrongly: fledge doctor"
        )
    return losses[0], losses[-1], resumed_from


@contextlib.contextmanager
def child(folder: Path, words: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """`fledge WORDS` in a process of its own, which does not outlive the block. Its output goes to a file."""
    command = [sys.executable, "-m", "fledge", *words, "--runs", str(folder / "runs")]
    environment = os.environ | {"FLEDGE_CACHE": str(folder / "cache")}
    with (folder / OUTPUT).open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def failure(stage: str, folder: Path) -> UserError:
    """The last error in its log, as an error of ours."""
    error = logged_error(folder / OUTPUT)
    reason = f": {error.message}" if error.message else f" did not come to an end within {TIMEOUT:.0f} s"
    return UserError(f"{stage} failed{reason}", error.hint or "see: fledge doctor")
