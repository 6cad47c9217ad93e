"""One rank of several, as torchrun would have started it: ENV, WORDS, SAID and FIRST are given by the test."""

import os
import runpy
import sys

from fledge.cli.main import main

os.environ.update(ENV)  # type: ignore[name-defined]  # noqa: F821
said = os.open(SAID, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)  # type: ignore[name-defined]  # noqa: F821
for stream in (1, 2):
    os.dup2(said, stream)
if FIRST:  # type: ignore[name-defined]  # noqa: F821
    runpy.run_path(FIRST)  # type: ignore[name-defined]  # noqa: F821
sys.exit(main(WORDS))  # type: ignore[name-defined]  # noqa: F821
