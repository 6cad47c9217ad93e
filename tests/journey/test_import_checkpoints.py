"""A checkpoint of another GPT program, from the Hub or a file, through the commands that take a run."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fledge.cli.main import main
from fledge.runs.run_folder import open_run

from ..exchange import gpt_programs as programs
from ..exchange.conftest import randomized
from ..text.conftest import File, Remote, remote  # noqa: F401 — a fixture is found by its name

CHARACTERS = "\nabcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?-:;"
SHORT = ("--train.steps", "2", "--train.eval_every", "2", "--train.batch", "4", "--train.sample_every", "0")
TRAIN = (*SHORT, "--train.compile", "false", "--train.device", "cpu", "--train.dtype", "float32")


def checkpoint(model: torch.nn.Module) -> bytes:
    """As SmollGPT and GPT from scratch save it."""
    buffer = io.BytesIO()
    torch.save({"epoch": 4, "model_state_dict": model.state_dict(), "loss": np.mean([1.0, 2.0])}, buffer)
    return buffer.getvalue()


@pytest.fixture
def characters(home) -> str:
    assert len(CHARACTERS) == programs.V
    (home.folder / "characters.txt").write_text(CHARACTERS)
    return str(home.folder / "characters.txt")


def greedy(model: torch.nn.Module, ids: list[int], count: int) -> list[int]:
    """Each token from the last ones that fit into the context."""
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids[-programs.T :]]))[0, -1].argmax())]
    return ids


def test_model_from_the_hub_goes_through_every_command(
    home,
    remote: Remote,  # noqa: F811
    characters: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = randomized(programs.SmollGPT())
    remote.files |= {"model.pt": File(checkpoint(theirs)), "README.md": File(b"read me", large=False)}
    given = ("--characters", characters, "--model.n_head", str(programs.H))
    assert home.do("import", "o/n", *given) == 0
    assert "'n' is a SmollGPT of" in capsys.readouterr().out
    words = ("--prompt", "the fox", "--tokens", "60", "--greedy", "--past-context", "slide", "--device", "cpu")
    assert home.do("generate", "n", *words, "--json") == 0
    run = open_run("n", home.runs).load()
    expected = run.tokenizer.decode(greedy(theirs, run.tokenizer.encode("the fox").tolist(), 60))
    assert json.loads(capsys.readouterr().out)["text"] == expected.removeprefix("the fox")

    dataset, tokenizer = home.folder / "dataset", home.runs / "n" / "tokenizer.json"
    assert main(["prepare", str(home.text), "--out", str(dataset), "--tokenizer", str(tokenizer)]) == 0
    assert home.do("train", "--init", "n", "--data.path", str(dataset), *TRAIN, "--run", "tuned") == 0
    settings = open_run("tuned", home.runs).config()["model"]
    assert (settings["block"], settings["final_norm"], settings["dropout"]) == ("norm_in_out", False, 0.1)
    capsys.readouterr()
    assert home.do("eval", "tuned@latest", "--json") == 0
    assert json.loads(capsys.readouterr().out)["loss"] > 0
    assert home.do("export", "tuned@latest", "--to", "hf", "--out", str(home.folder / "hf"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["difference"] < 1e-4
    assert home.do("eject", "tuned@latest", "--out", str(home.folder / "ejected")) == 0


@pytest.mark.parametrize("source", ["hf://o/n/deep/model.pt", "hf://o/n@main/deep/model.pt"])
def test_one_file_of_the_hub_is_imported(home, remote: Remote, characters: str, source: str) -> None:  # noqa: F811
    remote.files |= {"deep/model.pt": File(checkpoint(programs.ScratchEarly())), "model.pt": File(b"other")}
    assert home.do("import", source, "--characters", characters) == 0
    assert open_run("n", home.runs).load().model.config.block == "post_norm"
    assert not any(path.endswith("/model.pt") and "deep" not in path for path, _ in remote.asked)


def test_repository_with_several_checkpoints_asks_for_one(
    home,
    remote: Remote,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    remote.files |= {"a.pt": File(b"1"), "b.ckpt": File(b"2")}
    refused = {
        ("import", "o/n"): ("has 2 checkpoints: a.pt, b.ckpt", "hf://o/n/a.pt"),
        ("import", "hf://o/n/c.pt"): ("there is no 'hf://o/n/c.pt' on the Hub", "the repository has a.pt, b.ckpt"),
        ("import", "hf://o/n/a.pt"): ("is not a model file that fledge can read", "ckpt.pt"),
    }
    for words, (message, hint) in refused.items():
        assert home.do(*words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert hint in error
    assert not home.runs.exists() or not list(home.runs.iterdir())


def test_file_without_suffix_and_folder_of_checkpoints(
    home, characters: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT from scratch writes files without a suffix, one for each epoch."""
    folder = home.folder / "checkpoints"
    folder.mkdir()
    (folder / "rudimentary_gpt_epoch_4").write_bytes(checkpoint(programs.ScratchEarly()))
    assert home.do("import", str(folder / "rudimentary_gpt_epoch_4"), "--characters", characters, "--json") == 0
    imported: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (imported["run"], imported["kind"]) == ("rudimentary_gpt_epoch_4", "GPT from scratch")
    assert home.do("import", str(folder), "--characters", characters) == 2
    assert "or the path of a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_refused(home, characters: str, capsys: pytest.CaptureFixture[str], value: float) -> None:
    model = programs.ScratchEarly()
    with torch.no_grad():
        model.layer_norm.bias[0] = value
    path: Path = home.folder / "model.pth"
    path.write_bytes(checkpoint(model))
    assert home.do("import", str(path), "--characters", characters) == 2
    assert "'norm.bias' of" in (error := capsys.readouterr().err)
    assert "contains NaN or infinity" in error
