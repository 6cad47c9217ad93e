"""Remote files whose storage fails while they are read."""

import errno
import gzip
import io
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec import AbstractFileSystem

from fledge.core.errors import UserError
from fledge.text import formats, sources
from fledge.text.inputs import ReadOptions, Slice, storage_errors

TEXTS = [f"{number:x} " * 40_000 for number in range(30)]


class LineIsDead(Exception):
    """Not an OSError: storage libraries have exceptions of their own."""


class Breaking(io.BytesIO):
    """When `broken`, fails in the middle of the file."""

    broken = False

    def read(self, size: int | None = -1, /) -> bytes:
        quarter = len(self.getvalue()) // 4
        if Breaking.broken and quarter < self.tell() < 3 * quarter:
            raise LineIsDead("the line went dead")
        return super().read(size)


class Shaky(AbstractFileSystem):
    """shaky://NAME"""

    protocol = "shaky"
    held: ClassVar[dict[str, bytes]] = {}

    def ls(self, path: str, *_: object, **__: object) -> list[dict[str, object]]:
        return [{"name": path, "size": len(self.held[path]), "type": "file"}] if path in self.held else []

    def _open(self, path: str, *_: object, **__: object) -> io.BytesIO:
        return Breaking(self.held[path])


@pytest.fixture(autouse=True)
def shaky(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(Breaking, "broken", False)
    monkeypatch.setattr(Shaky, "held", {})


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), file, row_group_size=1, compression="none", use_dictionary=False)
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.parquet"])
def test_storage_error_while_reading_is_reported_as_such(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = "\n".join(TEXTS).encode()
    Shaky.held[name] = {"a.txt": plain, "a.txt.gz": gzip.compress(plain, 0), "a.parquet": parquet()}[name]
    [source] = sources.fetch_inputs(f"shaky://{name}")
    assert sum(chunk.last for chunk in formats.read_slice(Slice(source), ReadOptions(separator="\n"))) == len(TEXTS)
    monkeypatch.setattr(Breaking, "broken", True)
    with pytest.raises(UserError, match=f"could not read 'shaky://{name}': the line went dead") as caught:
        list(formats.read_slice(Slice(source), ReadOptions(separator="\n")))
    assert "network" in caught.value.hint


def test_full_local_disk_is_not_reported_as_storage_error() -> None:
    with pytest.raises(OSError, match="No space"), storage_errors("s3://duck"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match="could not write to 's3://duck'"), storage_errors("s3://duck", "write to"):
        raise OSError(errno.EBUSY, "slow down")
