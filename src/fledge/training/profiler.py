"""fledge train --profile: what the time of a few steps is spent on.

RUN/profile/trace.json       every operation on a time line, for https://ui.perfetto.dev or chrome://tracing
RUN/profile/operators.txt    the same added up, the dearest first
"""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WARM_UP = 10  # steps that are left out: the first compile, and fill caches
STEPS = 3


class StepProfiler:
    """Call it after each step. Without overhead before and after the steps that it records."""

    def __init__(self, folder: Path, steps: int) -> None:
        """`steps`: how many there will be at most."""
        self.folder = folder
        self.done = False
        wait = max(0, min(WARM_UP, steps - STEPS - 1))
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
        """True after the step that was the last to be recorded."""
        if self.done:
            return False
        self._profile.step()
        return self.done

    def close(self) -> None:
        """Where training ends before all were recorded, those that were are written."""
        if not self.done:
            self._profile.stop()

    def _write(self, found: profile) -> None:
        self.folder.mkdir(exist_ok=True)
        found.export_chrome_trace(str(self.folder / "trace.json"))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=60)
        (self.folder / "operators.txt").write_text(table, encoding="utf-8")
        self.done = True
