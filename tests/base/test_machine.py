"""What the machine is, and what is chosen on it."""

from pathlib import Path

import pytest
import torch

from fledge.base import machine as machines
from fledge.base.errors import UserError
from fledge.base.machine import Machine


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
    assert machines.choose("cpu", dtype) == Machine("cpu", dtype)  # type: ignore[arg-type]


def test_auto_precision_is_one_of_the_known_ones_and_has_a_reason() -> None:
    choice = machines.choose_dtype("cpu")
    assert choice.value in machines.DTYPES
    assert choice.why


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
    assert machines.cores() >= 1
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
