"""Where a model is, a folder, or a repository of the Hub whose files come when they are asked for; and what is found.

Says which files there are and where they lie by now; what they mean is the business of those who read them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from fledge.checkpoint.state import Tensors
from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.model.config import ModelConfig
from fledge.text import hub
from fledge.tokenizers.base import Tokenizer

ON_THE_HUB = re.compile(r"(?:hf://)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<rev>[^/@]+))?")


@dataclass(frozen=True)
class ForeignModel:
    """A model out of another program's files, in our parts and under our names."""

    kind: str  # what it was there
    model: ModelConfig
    weights: Tensors
    tokenizer: Tokenizer


@dataclass(frozen=True)
class ModelFolder:
    """Files by name, each with a way to get it."""

    name: str
    files: Mapping[str, Callable[[], Path]]

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def path(self, name: str) -> Path:
        return self.files[name]()


def locate_model(source: str) -> Path | ModelFolder:
    """A file, or the files of a folder or of a repository. What lies here wins over what lies on the Hub."""
    path = user_path(source)
    if path.is_dir():
        return local_model_folder(path)
    if path.exists():
        return path
    match = ON_THE_HUB.fullmatch(source)
    if match is None or source.startswith((".", "~")) or path.suffix in (".pt", ".gguf"):
        raise UserError(
            f"no such file or folder: '{source}'", "give a folder, a file, or a name on the Hub: openai-community/gpt2"
        )
    listed = hub.model_files(match["repo"], unquote(match["rev"] or "main"))
    at_the_top = [file for file in listed if "/" not in file.path]
    return ModelFolder(source, {file.path: partial(hub.download_file, file) for file in at_the_top})


def local_model_folder(folder: Path) -> ModelFolder:
    return ModelFolder(
        str(folder), {file.name: partial(Path, file) for file in sorted(folder.iterdir()) if file.is_file()}
    )
