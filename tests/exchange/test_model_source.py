"""Sources of a model: a folder, a file, or the Hub, imitated by a local server."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fledge.checkpoint.state import weights_of
from fledge.core.errors import UserError
from fledge.exchange import huggingface, model_source
from fledge.exchange.model_source import ModelFolder
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.hf import HFTokenizer

from ..text.conftest import File, Remote, remote  # noqa: F401 — a fixture is found by its name
from .conftest import MODERN


def test_folder_lists_files_but_no_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deeper").mkdir()
    found = model_source.locate_model(str(tmp_path))
    assert isinstance(found, ModelFolder)
    assert "config.json" in found
    assert "deeper" not in found
    assert found.path("config.json") == tmp_path / "config.json"


def test_file_is_returned_as_its_path(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pt").write_bytes(b"x")
    assert model_source.locate_model(str(tmp_path / "ckpt.pt")) == tmp_path / "ckpt.pt"


@pytest.mark.parametrize("name", ["o/n", "hf://o/n", "o/n@main"])
def test_hub_downloads_only_requested_files(remote: Remote, name: str) -> None:  # noqa: F811
    remote.files |= {"config.json": File(b"{}", large=False), "model.safetensors": File(b"large")}
    remote.files["onnx/config.json"] = File(b"other")
    found = model_source.locate_model(name)
    assert isinstance(found, ModelFolder)
    assert set(found.files) == {"config.json", "model.safetensors"}
    assert found.path("config.json").read_bytes() == b"{}"
    assert [path for path, _ in remote.asked if "resolve" in path] == [f"/o/n/resolve/{remote.commit}/config.json"]


def test_local_path_takes_precedence_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o" / "n").mkdir(parents=True)
    (tmp_path / "o" / "n" / "config.json").write_text("here")
    found = model_source.locate_model("o/n")
    assert isinstance(found, ModelFolder)
    assert found.path("config.json").read_text() == "here"


@pytest.mark.parametrize("name", ["gpt2", "./o/n", "/o/n", "models/n.gguf", "out/ckpt.pt", "a/b/c"])
def test_unknown_source_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(UserError, match="no such file or folder") as caught:
        model_source.locate_model(name)
    assert "openai-community/gpt2" in caught.value.hint


def test_model_from_the_hub_equals_the_uploaded_one(
    remote: Remote,  # noqa: F811
    tmp_path: Path,
    make: Callable[[ModelConfig], GPT],
    tokenizer: HFTokenizer,
) -> None:
    model = make(MODERN)
    huggingface.write_hf_folder(tmp_path, model, tokenizer)
    remote.files |= {file.name: File(file.read_bytes(), large=file.suffix != ".json") for file in tmp_path.iterdir()}
    found = model_source.locate_model("o/n")
    assert isinstance(found, ModelFolder)
    read = huggingface.read_hf_folder(found)
    assert all(torch.equal(read.weights[name], weight) for name, weight in weights_of(model).items())
    assert not any("generation_config" in path for path, _ in remote.asked)  # nobody needs it
