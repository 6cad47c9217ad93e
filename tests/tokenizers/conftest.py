"""Real texts: from the folder in FLEDGE_TEST_DATA, and from Python's standard library."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.text import sources


@pytest.fixture(scope="session")
def data() -> Path:
    folder = os.environ.get("FLEDGE_TEST_DATA")
    if not folder:
        pytest.skip("FLEDGE_TEST_DATA names no folder with shakespeare/, wikitext/ and gpt2/")
    return Path(folder)


@pytest.fixture(scope="session")
def library_text() -> str:
    """About three megabytes of the standard library."""
    return "".join(document.text for document in sources.read_source("python"))[:3_000_000]


@pytest.fixture
def real_text(request: pytest.FixtureRequest) -> Callable[[str], str]:
    def read(name: str) -> str:
        if name == "python":
            return str(request.getfixturevalue("library_text"))
        files = {"shakespeare": "shakespeare/input.txt", "wikitext": "wikitext/wikitext-2-valid.txt"}
        return (request.getfixturevalue("data") / files[name]).read_text("utf-8")

    return read
