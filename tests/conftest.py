"""For all tests: properties are judged by what they say, never by how fast this machine is today."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("fledge", deadline=None)
settings.load_profile("fledge")


@pytest.fixture(autouse=True)
def the_same_chance_every_time() -> None:
    torch.manual_seed(0)
