"""What the machine is, and what is chosen on it."""

import json
import math
from pathlib import Path

import pytest
import torch

from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.device import Machine
from fledge.core.errors import UserError


def test_cpu_is_always_available() -> None:
    assert "cpu" in machines.devices()
    assert machines.choose_device("cpu").value == "cpu"
    assert machines.choose_device("cpu").why


def test_auto_chooses_an_available_device() -> None:
    assert machines.choose_device().value in machines.devices()


@pytest.mark.parametrize("wanted", ["cuda", "mps", "tpu"])
def test_missing_device_is_refused_with_the_available_ones(wanted: str) -> None:
    if wanted in machines.devices():
        pytest.skip(f"this machine has {wanted}")
    with pytest.raises(UserError) as caught:
        machines.choose_device(wanted)
    assert wanted in caught.value.message
    assert "cpu" in caught.value.hint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_explicit_dtype_is_used(dtype: str) -> None:
    assert machines.choose_machine("cpu", dtype) == Machine("cpu", dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "rates", "dtype"),
    [(False, (1, 9), "float32"), (True, (100, 140), "float32"), (True, (100, 160), "bfloat16")],
)
def test_bf16_needs_units_that_are_faster(
    monkeypatch: pytest.MonkeyPatch, units: bool, rates: tuple[float, float], dtype: str
) -> None:
    monkeypatch.setattr(machines, "has_bf16_units", lambda _: units)
    monkeypatch.setattr(machines, "matmul_rates", lambda: rates)
    choice = machines.choose_dtype("cpu")
    assert choice.value == dtype
    assert choice.why


def test_matmul_rates_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    assert isinstance(machines.real["has_bf16_units"]("cpu"), bool)
    measure = machines.real["matmul_rates"]
    first = measure(seconds=0.0, size=32)
    assert min(first) > 0
    assert measure(seconds=0.0, size=32) == first


def test_measurements_are_cached_side_by_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    for what in ("one", "two"):
        machines.cached_measurement(what, lambda what=what: {what: 1.0})
    assert machines.cached_measurement("one", lambda: {"one": 2.0}) == {"one": 1.0}


@pytest.mark.parametrize("damaged", [None, 1, {}, [1.0], {"one": "x"}, {"one": math.nan}])
def test_damaged_measurement_is_made_again(damaged: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    machines.cached_measurement("one", lambda: {"one": 1.0})
    file = tmp_path / "machine.json"
    for content in ([], dict.fromkeys(json.loads(file.read_text()), damaged)):
        file.write_text(json.dumps(content))
        assert machines.cached_measurement("one", lambda: {"one": 2.0}) == {"one": 2.0}


def test_bf16_is_refused_on_an_apple_gpu() -> None:
    with pytest.raises(UserError, match="bfloat16"):
        machines.choose_dtype("mps", "bfloat16")


@pytest.mark.parametrize(("dtype", "product"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_uses_the_chosen_dtype(dtype: str, product: torch.dtype) -> None:
    a = torch.ones(2, 2)
    with Machine("cpu", dtype).autocast():  # type: ignore[arg-type]
        assert (a @ a).dtype == product


def test_missing_compiler_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    choice = machines.find_compiler("cpu")
    assert choice.value == ""
    assert "compiler" in choice.why


def test_cxx_names_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("g++", "my-compiler"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert machines.find_compiler("cpu").value == str(tmp_path / "my-compiler")
    monkeypatch.setenv("CXX", "absent-compiler")  # torch would take it at its word, so we do
    assert machines.find_compiler("cpu").value == ""


def test_processor_has_a_name() -> None:
    assert machines.processor()
    assert usable_cores() >= 1
    assert machines.total_memory("cpu") > 2**20


@pytest.mark.parametrize(
    ("device", "dtype", "there"),
    [("cpu", "float32", True), ("cpu", "bfloat16", False), ("cpu", "float16", False), ("cuda", "float16", True),
     ("cuda", "bfloat16", False), ("mps", "float32", True), ("mps", "float16", False)],
)  # fmt: skip
def test_dtype_without_units_is_detected(device: str, dtype: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "has_bf16_units", lambda _: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    assert machines.has_units(device, dtype) == there


def test_measuring_draws_no_random_number_of_the_program() -> None:
    torch.manual_seed(1)
    machines._measure_matmul(seconds=0.0, size=8)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
