"""Where a GPU is. FLEDGE_GPU_DRY_RUN=1 runs the same tests on a CPU, so that they are known to run at all."""

import os

import pytest
import torch

from fledge.core.device import Machine

DRY_RUN = bool(os.environ.get("FLEDGE_GPU_DRY_RUN"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)  # noqa: PTH120
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available() and not DRY_RUN:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def device() -> str:
    return "cpu" if DRY_RUN else "cuda"


@pytest.fixture
def on_device(device: str) -> tuple[str, ...]:
    return ("--train.device", device)


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def machine(device: str, dtype: str) -> Machine:
    return Machine(device, dtype)  # type: ignore[arg-type]
