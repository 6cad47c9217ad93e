"""Find an external model: a file, a folder, or a repository on the Hub whose files are downloaded on demand."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from fledge.checkpoint.state import Tensors
from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.downloads import hub
from fledge.model.config import ModelConfig
from fledge.tokenizers.base import Tokenizer

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
REPO = r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<rev>[^/@]+))?"
FILE_SUFFIXES = (*TORCH_SUFFIXES, ".gguf")
HUB_NAME = re.compile(rf"(?:hf://)?{REPO}")
HUB_FILE = re.compile(rf"hf://{REPO}/(?P<file>.+)")


@dataclass(frozen=True)
class ExternalModel:
    """A model read from the files of another program, with fledge's settings and weight names."""

    architecture: str  # its name in the other program
    model: ModelConfig
    weights: Tensors
    tokenizer: Tokenizer
    chat: Mapping[str, str] = field(default_factory=dict)  # settings of its chat template, where it has one


@dataclass(frozen=True)
class ModelFolder:
    """Files by name, each with a function that returns its path, downloading it first if necessary."""

    name: str
    files: Mapping[str, Callable[[], Path]]

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def path(self, name: str) -> Path:
        return self.files[name]()


def locate_model(source: str) -> Path | ModelFolder:
    """A single file, or the files of a folder or of a Hub repository. A local path takes precedence over the Hub."""
    path = user_path(source)
    if path.is_dir():
        return local_model_folder(path)
    if path.exists():
        return path
    if match := HUB_FILE.fullmatch(source):
        return _hub_file(match["file"], _list_repository(match), source)
    match = HUB_NAME.fullmatch(source)
    if match is None or source.startswith((".", "~")) or path.suffix in FILE_SUFFIXES:
        raise UserError(
            f"no such file or folder: '{source}'",
            "give a folder, a file, or a name on the Hub: openai-community/gpt2, hf://OWNER/NAME/model.pt",
        )
    top_level = [file for file in _list_repository(match) if "/" not in file.path]
    return ModelFolder(source, {file.path: partial(hub.download_file, file) for file in top_level})


def model_name(source: str) -> str:
    """What to call a model: the name of a Hub repository rather than that of its file."""
    match = HUB_FILE.fullmatch(source)
    return match["repo"].partition("/")[2] if match else source.partition("@")[0]


def _list_repository(match: re.Match[str]) -> list[hub.HubFile]:
    return hub.model_files(match["repo"], unquote(match["rev"] or "main"))


def _hub_file(name: str, listed: list[hub.HubFile], source: str) -> Path:
    for file in listed:
        if file.path == name:
            return hub.download_file(file)
    known = ", ".join(file.path for file in listed[:5]) or "no files"
    raise UserError(f"there is no '{source}' on the Hub", f"the repository has {known}")


def local_model_folder(folder: Path) -> ModelFolder:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return ModelFolder(str(folder), {file.name: partial(Path, file) for file in files})
