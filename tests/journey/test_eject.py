"""fledge eject from the command line: a preset or a run becomes one new file."""

import errno
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fledge.runs.run_folder import open_run


def module_of(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "hint"]
    return err


def test_file_of_a_run_has_the_same_logits(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "gpt.py"
    assert trained.do("eject", "bird", "--out", str(out), "--json") == 0
    answer = told(capsys)
    loaded = open_run("bird", trained.runs, default="best").load()
    assert answer["name"] == "bird"
    assert answer["lines"] == len(out.read_text().splitlines()) <= 450
    assert answer["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    module = module_of(out)
    from safetensors.torch import load_model

    model = module.GPT()
    load_model(model, answer["weights"])
    ids = torch.from_numpy(loaded.tokenizer.encode("the quick brown").astype("int64"))[None]
    with torch.no_grad():
        assert torch.equal(model(ids), loaded.model(ids))
    assert module.BATCH == 4
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("fox")) == "fox"
    assert Path(answer["tokenizer"]).exists()


def test_output_names_the_next_command(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "it's mine.py"
    assert trained.do("eject", "bird@20", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "a GPT of" in said
    assert "step-00000020/model.safetensors" in said
    assert "python '" in said  # a name with a blank is quoted


def test_missing_checkpoint_is_refused(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("eject", "bird@7", "--out", str(tmp_path / "gpt.py")) == 2
    assert "no checkpoint '7'" in refused(capsys)


def test_existing_file_is_never_overwritten(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpt.py"
    out.write_text("mine")
    assert trained.do("eject", "bird", "--out", str(out)) == 2
    assert "already exists" in refused(capsys)
    assert out.read_text() == "mine"
    assert trained.do("eject", "bird", "--out", str(tmp_path)) == 2
    assert "already exists" in refused(capsys)


def test_full_disk_leaves_no_partial_file(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert trained.do("eject", "bird", "--out", str(tmp_path / "new" / "gpt.py")) == 2
    assert "the disk is full" in refused(capsys)
    assert list(tmp_path.iterdir()) == []


def test_preset_with_changed_settings(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpt.py"
    words = ["--model.n_layer", "2", "--model.n_embd", "48", "--optim.schedule", "constant"]
    assert trained.do("eject", "gpt2", "--out", str(out), *words, "--json") == 0
    assert told(capsys)["weights"] is None
    module = module_of(out)
    assert (module.N_LAYER, module.MLP_WIDTH) == (2, 192)
    assert not hasattr(module, "math")


def test_settings_file_is_ejected_like_a_preset(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / 'a """odd\\" name.toml'
    odd.write_text(trained.toml.read_text())
    out = tmp_path / "gpt.py"
    assert trained.do("eject", str(odd), "--out", str(out)) == 0
    assert module_of(out).N_EMBD == 16
    assert out.read_text().startswith('"""a ___odd__ name: a GPT of')


def test_run_wins_over_a_preset_of_the_same_name(own: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own.runs / "bird").rename(own.runs / "gpt2")
    assert own.do("eject", "gpt2", "--out", str(tmp_path / "run.py")) == 0
    assert "'gpt2' is both a run and a preset: using the run" in capsys.readouterr().err
    assert module_of(tmp_path / "run.py").N_LAYER == 1
    assert own.do("eject", "gpt2", "--model.n_layer", "3", "--out", str(tmp_path / "preset.py")) == 0
    assert module_of(tmp_path / "preset.py").N_LAYER == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["brid"], "did you mean 'bird'?"),
        (["gtp2"], "did you mean 'gpt2'?"),
        (["nothing-like-it"], "no preset or run is called 'nothing-like-it'"),
        (["absent.toml"], "no such file"),
        (["bird", "--model.n_layer", "3"], "its settings cannot be changed"),
        (["gpt2", "--model.n_layers", "3"], "did you mean 'model.n_layer'?"),
        (["gpt2", "--model.n_head", "5"], "not divisible"),
        ([""], "no preset or run"),
    ],
)
def test_mistake_is_refused_before_writing(
    words: list[str], message: str, trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpt.py"
    assert trained.do("eject", *words, "--out", str(out)) == 2
    assert message in refused(capsys)
    assert not out.exists()
