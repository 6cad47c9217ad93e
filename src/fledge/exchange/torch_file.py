"""Open what `torch.save` has written: tensors and plain values, and no code.

Unpickling can run any code, so torch's restricted unpickler reads the file. It refuses every class but those of
tensors. The few others that checkpoints of GPT programs hold are allowed by name, and become plain values.
"""

import re
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from fledge.core.errors import UserError

DOWNLOAD_AGAIN = "download or copy the file again"
START = (b"PK\x03\x04", b"\x80")  # of a file of torch.save: a zip archive, or of before 2020 a pickle


class SkippedValue:
    """In place of a number of NumPy, such as a mean loss: nothing that an import needs."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


ALLOWED: list[Any] = [
    (SimpleNamespace, "types.SimpleNamespace"),
    (SkippedValue, "numpy.dtype"),
    (SkippedValue, "numpy.core.multiarray.scalar"),
    (SkippedValue, "numpy._core.multiarray.scalar"),
]


def is_torch_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(START)


def read_torch_file(path: Path, source: str | None = None) -> Any:
    """The content, with all tensors on the CPU. `source`: the name of the file in messages."""
    source = source or str(path)
    _refuse_compressed(path, source)
    try:
        with torch.serialization.safe_globals(ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # damaged files raise errors of every kind
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise UserError(f"'{source}' is damaged, or not a file of tensors", DOWNLOAD_AGAIN) from None
        raise UserError(
            f"'{source}' holds more than tensors ({refused[1]}), so opening it could run arbitrary code",
            "ask the author for safetensors; or, where you trust it, load it there and save model.state_dict() alone"
            " with torch.save",
        ) from None


def _refuse_compressed(path: Path, source: str) -> None:
    """torch.save does not compress, so a file that unpacks to more than its size is none of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return  # of before 2020, or damaged: torch says which
    if size > path.stat().st_size:
        raise UserError(f"'{source}' is damaged: it would unpack to more than it holds", DOWNLOAD_AGAIN)
