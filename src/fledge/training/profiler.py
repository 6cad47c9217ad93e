"""Profiles a few steps, for `fledge train --profile`.

RUN/profile/trace.json       every operation on a time line, for https://ui.perfetto.dev or chrome://tracing
RUN/profile/operators.txt    time and memory by operator, the slowest first
"""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED_STEPS = 10  # steps that are left out: the first ones compile and fill caches
STEPS = 3


class StepProfiler:
    """Call it after each step. No overhead outside the steps that it records."""

    def __init__(self, folder: Path, steps: int) -> None:
        """`steps`: of the whole training run."""
        self.folder = folder
        self.done = False
        wait = max(0, min(SKIPPED_STEPS, steps - STEPS - 1))
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=wait, warmup=1, active=STEPS, repeat=1),
            on_trace_ready=self._write,
            profile_memory=True,
            acc_events=True,
        )
        self._profile.start()

    def __call__(self) -> bool:
        """True after the last recorded step."""
        if self.done:
            return False
        self._profile.step()
        return self.done

    def close(self) -> None:
        """If training ends early, write what was recorded."""
        if not self.done:
            self._profile.stop()

    def _write(self, found: profile) -> None:
        self.folder.mkdir(exist_ok=True)
        found.export_chrome_trace(str(self.folder / "trace.json"))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=60)
        (self.folder / "operators.txt").write_text(table, encoding="utf-8")
        self.done = True
