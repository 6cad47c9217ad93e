"""The parts of the time of training, and the fraction of the peak."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from fledge.core import peak_flops as peaks
from fledge.core.device import Machine
from fledge.core.distributed import World
from fledge.model.flops import training_flops
from fledge.tracking.sinks.csv import read_metrics
from fledge.training import step_time
from fledge.training.step import TrainStep
from fledge.training.step_time import StepTime


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_time, "time", clock)
    return clock


def test_parts_of_steps_are_means_and_others_are_sums(clock: Clock) -> None:
    spent = StepTime("cpu", token_flops=10.0, peak_flops=lambda: 1000.0)
    for _ in range(2):
        with spent.measure("data"):
            clock.now += 1
        with spent.measure("statistics"):
            clock.now += 0.5
        with spent.measure_update():
            clock.now += 2
        spent.add_tokens(100)
        spent.add_step(10.0)
        with spent.measure("saving"):
            clock.now += 7
    expected = {"data": 1.0, "optimizer": 2.0, "forward_backward": 6.5, "saving": 14.0, "statistics": 1.0}
    found = spent.metrics()
    assert found.pop("train/mfu") == pytest.approx(10 * 200 / (1000 * 20))
    assert found == {f"time/{part}": pytest.approx(seconds) for part, seconds in expected.items()}
    assert spent.metrics() == {}, "told once"


def test_time_is_counted_where_a_part_raises(clock: Clock) -> None:
    spent = StepTime()

    def fail() -> None:
        with spent.measure("evaluation"):
            clock.now += 3
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert spent.metrics() == {"time/evaluation": 3.0}


def test_unknown_peak_has_no_fraction() -> None:
    spent = StepTime("cpu", 10.0)
    spent.add_tokens(5)
    spent.add_step(1.0)
    assert "train/mfu" not in spent.metrics()


def test_parts_of_a_real_step_add_up(stepper: Callable[..., TrainStep]) -> None:
    step = stepper("float32")
    step.batches = SlowBatches(step.batches)
    seconds = step(0).seconds
    found = step.step_time.metrics()
    assert sum(found[f"time/{part}"] for part in step_time.PER_STEP) == pytest.approx(seconds)
    assert found["time/data"] >= 0.02


class SlowBatches:
    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __call__(self, number: int) -> Any:
        time.sleep(0.02)
        return self.batches(number)


def test_run_logs_where_its_time_went(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer({})
    trainer.fit()
    table = read_metrics(trainer.run.folder)
    for part in step_time.PER_STEP:
        assert len(table.measured(f"time/{part}")) == 6, part
    for part in ("evaluation", "saving", "sampling"):
        assert table.measured(f"time/{part}"), part
    model, train = trainer.settings.model, trainer.settings.train
    peak = peaks.peak_flops(Machine("cpu", "float32"))
    assert peak
    share = training_flops(model) * train.batch * model.context / (peak * table["train/step_seconds"][-1])
    assert table["train/mfu"][-1] == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "dtype", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", 362),
        ("Tesla T4", "float16", 65),
        ("NVIDIA H100 80GB HBM3", "float32", None),
        ("Some GPU of the future", "bfloat16", None),
    ],
)
def test_peak_of_a_gpu_is_that_of_its_data_sheet(
    name: str, dtype: Any, teraflops: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)
    found = peaks.peak_flops(Machine("cuda", dtype, World(0, 2)))
    assert found == (None if teraflops is None else 2e12 * teraflops)


class Event:
    """A moment of a GPU that computes the update after the host has gone on."""

    made = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        Event.made += 1

    def record(self) -> None: ...

    def elapsed_time(self, _: "Event") -> float:
        return 3000.0


def test_update_on_a_gpu_is_timed_by_events_a_step_later(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", Event)
    spent = StepTime("cuda")
    for _ in range(3):
        with spent.measure_update():
            clock.now += 0.001  # launching the kernels takes no time
        spent.add_step(10.0)
    found = spent.metrics()
    assert found["time/optimizer"] == pytest.approx(2 * 3.0 / 3), "the last one is not over"
    assert found["time/forward_backward"] == pytest.approx(8.0)
    with spent.measure_update():
        pass
    spent.add_step(10.0)
    assert spent.metrics()["time/optimizer"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GB200", 2500),
    ],
)
def test_rate_of_a_gpu_is_that_of_its_whole_name(name: str, rate: int | None) -> None:
    assert peaks.data_sheet(name) == rate
