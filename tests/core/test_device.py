"""What the machine is, and what is chosen on it."""

from pathlib import Path

import pytest
import torch

from fledge.core import device as machines
from fledge.core.cgroups import usable_cores
from fledge.core.device import Machine
from fledge.core.errors import UserError


def test_the_cpu_is_always_there_and_can_be_asked_for() -> None:
    assert "cpu" in machines.devices()
    assert machines.choose_device("cpu").value == "cpu"
    assert machines.choose_device("cpu").why


def test_auto_chooses_a_device_that_is_there() -> None:
    assert machines.choose_device().value in machines.devices()


@pytest.mark.parametrize("wanted", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(wanted: str) -> None:
    if wanted in machines.devices():
        pytest.skip(f"this machine has {wanted}")
    with pytest.raises(UserError) as caught:
        machines.choose_device(wanted)
    assert wanted in caught.value.message
    assert "cpu" in caught.value.hint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_used(dtype: str) -> None:
    assert machines.choose_machine("cpu", dtype) == Machine("cpu", dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "rates", "dtype"),
    [(False, (1, 9), "float32"), (True, (100, 140), "float32"), (True, (100, 160), "bfloat16")],
)
def test_bfloat16_needs_units_that_pay(
    monkeypatch: pytest.MonkeyPatch, units: bool, rates: tuple[float, float], dtype: str
) -> None:
    monkeypatch.setattr(machines, "has_bf16_units", lambda _: units)
    monkeypatch.setattr(machines, "matmul_rates", lambda: rates)
    choice = machines.choose_dtype("cpu")
    assert choice.value == dtype
    assert choice.why


def test_probe_measures_this_machine_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    assert isinstance(machines.real["has_bf16_units"]("cpu"), bool)
    measure = machines.real["matmul_rates"]
    first = measure(seconds=0.0, size=32)
    assert min(first) > 0
    assert measure(seconds=0.0, size=32) == first


def test_measurements_are_kept_beside_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path))
    for what in ("one", "two"):
        machines.cached_measurement(what, lambda what=what: {what: 1.0})
    assert machines.cached_measurement("one", lambda: {"one": 2.0}) == {"one": 1.0}
    (tmp_path / "machine.json").write_text("[]")
    assert machines.cached_measurement("one", lambda: {"one": 2.0}) == {"one": 2.0}


def test_bfloat16_is_refused_on_an_apple_gpu() -> None:
    with pytest.raises(UserError, match="bfloat16"):
        machines.choose_dtype("mps", "bfloat16")


@pytest.mark.parametrize(("dtype", "product"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_computed_in_the_chosen_precision(dtype: str, product: torch.dtype) -> None:
    a = torch.ones(2, 2)
    with Machine("cpu", dtype).autocast():  # type: ignore[arg-type]
        assert (a @ a).dtype == product


def test_without_a_compiler_on_the_path_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    choice = machines.find_compiler("cpu")
    assert choice.value == ""
    assert "compiler" in choice.why


def test_the_compiler_that_the_environment_names_is_the_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("g++", "my-compiler"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-compiler")
    assert machines.find_compiler("cpu").value == str(tmp_path / "my-compiler")
    monkeypatch.setenv("CXX", "absent-compiler")  # torch would take it at its word, so we do
    assert machines.find_compiler("cpu").value == ""


def test_the_machine_can_say_what_it_is() -> None:
    assert machines.processor()
    assert usable_cores() >= 1
    assert machines.total_memory("cpu") > 2**20


@pytest.mark.parametrize(
    ("device", "dtype", "there"),
    [("cpu", "float32", True), ("cpu", "bfloat16", False), ("cpu", "float16", False), ("cuda", "float16", True),
     ("cuda", "bfloat16", False)],
)  # fmt: skip
def test_a_precision_without_units_is_known(
    device: str, dtype: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "has_bf16_units", lambda _: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    assert machines.has_units(device, dtype) == there
