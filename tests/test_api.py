"""The Python API: the same results as the command line, quiet, lazy, and readable in a notebook."""

import ast
import json
import math
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fledge
from fledge.cli.main import main
from fledge.core.errors import UserError
from fledge.datasets.shards import open_dataset
from tiny import TINY_TOML, remains, write_text

SMALL = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 16},
    "optim": {"warmup_steps": 0},
    "track": {"prompt": "the"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a text, tiny.toml and the finished run `bird`; tests only add to it."""
    folder = tmp_path_factory.mktemp("api")
    write_text(folder / "text")
    (folder / "tiny.toml").write_text(TINY_TOML)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        fledge.train("tiny.toml", data="text", name="bird")
        yield folder


@pytest.fixture
def bird(folder: Path) -> fledge.LoadedRun:
    return fledge.load("bird")


def test_import_is_lazy() -> None:
    before, after = (loaded_modules(code) for code in ("dir(fledge)", "fledge.train"))
    packages = {name.split(".")[1] for name in before if name.startswith("fledge.")}
    assert packages == {"core"}  # the waiting policy of threads is set before anything imports torch
    assert "torch" not in before
    assert "torch" in after
    assert "matplotlib" not in after


def loaded_modules(code: str) -> list[str]:
    """The modules that are loaded after `import fledge` and this code."""
    program = f"import sys, fledge; {code}; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    modules: list[str] = ast.literal_eval(done.stdout)
    return modules


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fledge.trian  # noqa: B018
    assert {"train", "load", "prepare", "list_runs", "LoadedRun"} <= set(dir(fledge))


def test_train_gives_the_same_run_as_the_command_line(folder: Path) -> None:
    run = fledge.train("tiny.toml", data="text", name="by-api", train={"steps": 8})
    words = ["train", "tiny.toml", "--run", "by-cli", "--data.corpus", "text", "--train.steps", "8"]
    assert main(words) == 0
    assert remains(run.folder) == remains(folder / "runs" / "by-cli")


def test_nothing_is_printed_unless_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fledge.train("tiny.toml", data="text", name="quiet", train={"steps": 4})
    run.generate(tokens=3)
    run.evaluate()
    run.plot()
    fledge.prepare("text", "quiet-data", tokenizer="char")
    fledge.list_runs()
    assert capsys.readouterr() == ("", "")
    fledge.train("tiny.toml", data="text", name="loud", train={"steps": 4}, verbose=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert "step 4/4" in output.err


def test_warnings_become_python_warnings(folder: Path) -> None:
    with pytest.warns(UserWarning, match="learning rate"):
        fledge.train("tiny.toml", data="text", name="warned", train={"steps": 2}, optim={"warmup_steps": 5})


def test_prepared_dataset_is_trained_on(folder: Path) -> None:
    result = fledge.prepare(["text"], "data", tokenizer={"kind": "char"}, data={"val": 0.2})
    assert result.splits["val"].tokens == len(open_dataset(folder / "data").split("val"))
    run = fledge.train("tiny.toml", data="data", name="prepared", train={"steps": 3})
    assert Path(run.settings["data"]["path"]).samefile(folder / "data")


def test_settings_of_one_section_may_be_given_as_a_mapping(folder: Path) -> None:
    run = fledge.train("demo", data={"corpus": "text"}, tokenizer="char", name="map", train={"steps": 1}, **SMALL)
    assert (run.settings["tokenizer"]["kind"], run.model.config.n_embd) == ("char", 16)


def test_run_starts_from_another_run(bird: fledge.LoadedRun) -> None:
    run = fledge.train(init="bird", data="text", name="child", train={"steps": 3})
    assert run.model.config == bird.model.config


def test_generate_takes_the_options_of_the_engine(bird: fledge.LoadedRun) -> None:
    options = {"tokens": 60, "temperature": 1.0, "seed": 3, "dtype": "float32"}
    text = bird.generate("the", **options)
    assert text == "".join(bird.stream("the", **options))
    assert bird.generate("the", stop=" ", **options) == "the" + text.removeprefix("the").partition(" ")[0]
    assert bird.generate("the", repetition_penalty=100, **options) != text
    space = int(bird.tokenizer.encode(" ")[0])
    assert " " not in bird.generate("the", logit_bias={space: -100}, **options)


def test_wrong_sampling_option_is_refused(bird: fledge.LoadedRun) -> None:
    with pytest.raises(UserError, match="min-p cannot be 3"):
        bird.generate("the", min_p=3)
    with pytest.raises(TypeError, match="tempp"):
        bird.generate("the", tempp=1)


def test_resume_makes_a_run_longer(folder: Path) -> None:
    run = fledge.train("tiny.toml", data="text", name="short", train={"steps": 4})
    with pytest.raises(UserError, match="finished"):
        fledge.resume("short")
    longer = fledge.resume("short", train={"steps": 8}, allow_changes=True)
    assert (longer.name, longer.metrics().last_step) == (run.name, 8)


def test_generate_equals_the_command_line(bird: fledge.LoadedRun, capsys: pytest.CaptureFixture[str]) -> None:
    text = bird.generate("the", tokens=20, temperature=0.7, top_k=5, seed=3)
    words = ["--prompt", "the", "--tokens", "20", "--temperature", "0.7", "--top-k", "5", "--seed", "3"]
    assert main(["generate", "bird", *words]) == 0
    assert capsys.readouterr().out == text + "\n"


def test_stream_gives_the_prompt_and_then_pieces(bird: fledge.LoadedRun) -> None:
    pieces = list(bird.stream("the", tokens=9))
    assert pieces[0] == "the"
    assert len(pieces) > 3
    assert "".join(pieces) == bird.generate("the", tokens=9)


def test_evaluate_equals_the_command_line(bird: fledge.LoadedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "bird", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert bird.evaluate().loss == found["loss"]
    assert bird.evaluate("train").split == "train"


def test_evaluate_tasks_compares(bird: fledge.LoadedRun) -> None:
    found = bird.evaluate_tasks("induction", compare="bird@9")
    assert (found.tasks[0].items, found.compared_with) == (160, "bird@9")
    assert found.differences[0].task == "induction"


def test_evaluate_compares_and_measures_texts(bird: fledge.LoadedRun) -> None:
    found = bird.evaluate(compare="bird@9")
    assert found.comparison is not None
    assert found.comparison.step == 9
    assert "bits per byte" in found.comparison.verdict
    assert bird.evaluate_texts(continuations=2).texts == 2


def test_load_opens_the_checkpoint_that_is_named(bird: fledge.LoadedRun) -> None:
    assert [fledge.load(f"bird@{which}").step for which in (9, 12, "latest")] == [9, 12, 12]
    assert fledge.load(bird.folder).name == "bird"
    assert fledge.load("bird", runs="runs").step == bird.step


def test_wrong_argument_is_an_error_with_its_hint(folder: Path) -> None:
    with pytest.raises(UserError, match=r"unknown setting 'train\.step'") as caught:
        fledge.train("demo", train={"step": 3})
    assert caught.value.__notes__ == ["hint: did you mean 'train.steps'?"]
    with pytest.raises(UserError, match="no run 'brid'"):
        fledge.load("brid")


def test_damaged_checkpoint_is_skipped_with_a_warning(folder: Path) -> None:
    run = fledge.train("tiny.toml", data="text", name="damaged", train={"steps": 6})
    (run.folder / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step-00000006"):
        assert fledge.load("damaged@latest").step == 4


def test_metrics_are_a_table(bird: fledge.LoadedRun) -> None:
    metrics = bird.metrics()
    assert metrics["step"][-1] == 12
    assert len({len(column) for column in metrics.values()}) == 1
    page = metrics._repr_html_()
    assert page.count("<tr>") <= 13
    assert "<th>train/loss</th>" in page
    assert "nan" not in page


def test_html_shows_runs_and_figures(bird: fledge.LoadedRun) -> None:
    page = fledge.list_runs()._repr_html_()
    assert "<td>bird</td>" in page
    assert "<td>bird</td>" in bird._repr_html_()
    figures = bird.plot("figures")
    assert figures._repr_html_().startswith('<img src="data:image/png;base64,iVBOR')
    assert all(path.parent == Path("figures") for path in figures)


def test_html_escapes_names(folder: Path) -> None:
    fledge.train("tiny.toml", data="text", name="a<b>", train={"steps": 3})
    page = fledge.list_runs()._repr_html_()
    assert "<td>a&lt;b&gt;</td>" in page


def test_example_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "notebook.py"))
    assert names["run"].metrics().last_step == 60
    assert math.isfinite(names["best"].evaluate().loss)
    assert capsys.readouterr() == ("", "")
