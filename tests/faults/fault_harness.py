"""A tiny training in a folder of its own: started, interrupted, resumed to its end, and compared."""

import hashlib
from pathlib import Path
from typing import Any

from fledge.core.files import PARTIAL, REPLACED
from fork_server import Child, command
from tiny import TINY_TOML, remains, write_text

SAVE_EVERY = 3
SAVES = ("--train.save_seconds", "0.01", "--train.history", "4")  # besides those at fixed steps
Entry = tuple[Any, ...]  # the function of the new process and its first arguments
RUN = "bird"


class Harness:
    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder, self.runs, self.cache = folder, folder / "runs", cache or folder / "cache"
        self.text = folder / "text" if cache is None else cache.parent / "text"
        self.toml = folder / "tiny.toml"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.text.exists():
            write_text(self.text)
        self.toml.write_text(TINY_TOML)

    @property
    def run(self) -> Path:
        return self.runs / RUN

    def train(self, *words: str, held: bool = False, entry: Entry = (command,)) -> Child:
        given = ("--run", RUN, "--data.corpus", str(self.text), "--runs", str(self.runs), *SAVES)
        return self._start("train", str(self.toml), *given, *words, held=held, entry=entry)

    def continue_run(self, *words: str) -> Child:
        """Resume; or start again if there is no run yet."""
        if not (self.run / "config.toml").exists():
            return self.train(*words)
        return self._start("resume", RUN, "--runs", str(self.runs))

    def finish(self, *words: str) -> Child:
        """Continue to the end. A run that was killed after its last save refuses, because it is finished."""
        child = self.continue_run(*words)
        code = child.wait()
        assert code == 0 or (code == 2 and f"'{RUN}' is finished" in child.output()), child.output()
        return child

    def _start(self, *words: str, held: bool = False, entry: Entry = (command,)) -> Child:
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        environment = {"FLEDGE_CACHE": str(self.cache), "TORCHINDUCTOR_CACHE_DIR": str(self.cache / "compiled")}
        return Child(*entry, list(words), environment, log=log, held=held)

    def contents(self) -> dict[str, Any]:
        """Everything that must equal an undisturbed run, without temporary files."""
        leftovers = [str(path) for prefix in (PARTIAL, REPLACED) for path in self.runs.rglob(f"{prefix}*")]
        return {**remains(self.run), "leftovers": leftovers}


def last_due(steps: int) -> int:
    """The last step up to this one that is saved on schedule."""
    return steps // SAVE_EVERY * SAVE_EVERY


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
