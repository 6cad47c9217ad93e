"""The tested range of torch versions; others are refused before they can compute something wrong.

torch 2.11 compiled some losses into code whose gradients were zero; training/compiled.py detects that.
`make test-torch TORCH=2.14.1` runs the numerical tests with another version.
"""

import importlib.metadata
import os
import re

from fledge.core.errors import UserError

FIRST, BELOW = (2, 11), (2, 15)  # the same as in pyproject.toml
OVERRIDE = "FLEDGE_ANY_TORCH"  # environment variable


def refuse_untested_torch() -> None:
    """Reads the version without importing torch, which takes a second."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("torch is not installed", f"pip install '{supported_range()}'") from None
    found = tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])
    if not FIRST <= found < BELOW and not os.environ.get(OVERRIDE):
        raise UserError(
            f"torch {version} is not tested with fledge: it needs {supported_range()}",
            f"pip install '{supported_range()}', or set {OVERRIDE}=1 to try this version",
        )


def supported_range() -> str:
    return "torch>={}.{},<{}.{}".format(*FIRST, *BELOW)
