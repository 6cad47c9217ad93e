"""The Python API: the same results as the command line, quiet, lazy, and readable in a notebook."""

import ast
import contextlib
import json
import math
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import fledge
from families import MODELS, V
from fledge.cli.main import main
from fledge.core.errors import UserError
from fledge.datasets.shards import open_dataset
from fledge.insight.attention import attention_weights
from fledge.insight.logit_lens import logit_lens
from fledge.notebook.attention import HeadAttention
from fledge.notebook.logit_lens import ShownLogitLens
from fledge.runs.run_folder import RunFolder
from tiny import TINY_TOML, keep_columns, remains, write_text

SMALL = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context": 16},
    "optim": {"warmup_steps": 0},
    "track": {"prompt": "the"},
}


IPYTHON = {"version_info": (9, 0, 0), "get_ipython": lambda: None}  # what matplotlib asks it


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
    keep_columns(run.folder, "step", "train/loss")
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
    longer = {**options, "logit_bias": {bird.tokenizer.end_of_text: -100}}
    assert bird.generate("the", past_context="slide", **longer) != bird.generate("the", **longer)
    space = int(bird.tokenizer.encode(" ")[0])
    assert " " not in bird.generate("the", logit_bias={space: -100}, **options)


def test_wrong_sampling_option_is_refused(bird: fledge.LoadedRun) -> None:
    with pytest.raises(UserError, match="min-p cannot be 3"):
        bird.generate("the", min_p=3)
    with pytest.raises(UserError, match="past-context cannot be grow"):
        bird.generate("the", past_context="grow")
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


def test_estimate_equals_the_command_line(bird: fledge.LoadedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "bird", "--batches", "4", "--metrics", "smol-gpt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["estimate"]["metrics"]["f1"]
    estimate = bird.estimate(batches=4, metrics="smol-gpt")
    assert (estimate.metrics["f1"].mean, estimate.metrics["f1"].stderr) == (found["mean"], found["stderr"])
    for wrong in ({"metrics": "bleu"}, {"batches": 0}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(UserError):
            bird.estimate(**wrong)


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


def test_attention_is_shown_as_a_grid_and_a_table(bird: fledge.LoadedRun) -> None:
    attention = bird.attention("the dog")
    assert torch.equal(attention.weights, attention_weights(bird.model, ids_of(bird, "the dog")))
    assert attention.tokens == list("the dog")
    assert '<img src="data:image/png;base64,iVBOR' in attention._repr_html_()
    table = attention.head(0, 1)._repr_html_()
    assert table.count("<td") == 7 * 7
    assert f'title="h → t: {attention.weights[0, 1, 1, 0]:.3f}"' in table


def test_logit_lens_is_shown_as_a_table(bird: fledge.LoadedRun) -> None:
    lens = bird.logit_lens("the dog", top=3)
    best = bird.model(ids_of(bird, "the dog")[None])[0, -1].argmax()
    assert lens.top_tokens(0, 6)[0][0] == bird.tokenizer.decode([int(best)])
    assert lens._repr_html_().count("<td") == 7


def ids_of(run: fledge.LoadedRun, text: str) -> torch.Tensor:
    return torch.from_numpy(run.tokenizer.encode(text).astype("int64"))


def test_html_of_tokens_is_escaped() -> None:
    tokens = ["<b>", '"', "&", "\x1b"]
    page = HeadAttention(tokens, torch.eye(4), 0, 0)._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt; → &quot;: 0.000" in page
    assert "\x1b" not in page
    lens = logit_lens(MODELS["gpt2"], torch.arange(4), top=1)
    shown = ShownLogitLens(**vars(lens), tokens=tokens, labels=dict.fromkeys(range(V), "<i>"))
    assert "<i>" not in shown._repr_html_()


@pytest.mark.parametrize("look", ["attention", "logit_lens"])
def test_text_that_does_not_fit_is_refused(bird: fledge.LoadedRun, look: str) -> None:
    with pytest.raises(UserError, match="17 tokens, and the model sees 16"):
        getattr(bird, look)("t" * 17)
    with pytest.raises(UserError, match="the text is empty"):
        getattr(bird, look)("")
    with pytest.raises(UserError, match="is not in the vocabulary"):
        getattr(bird, look)("§")


def test_wrong_head_and_top_are_refused(bird: fledge.LoadedRun) -> None:
    with pytest.raises(UserError, match="no head 2 in layer 0"):
        bird.attention("the").head(0, 2)
    with pytest.raises(UserError, match="top cannot be 0"):
        bird.logit_lens("the", top=0)


def test_monitor_notebook_follows_a_run_to_its_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "bird"
    shutil.copytree(folder / "runs" / "bird", run)
    metrics = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text("".join(metrics.splitlines(keepends=True)[:6]))
    shown: list[list[float]] = []

    def display(figure: Figure) -> None:
        shown.append([line.get_xdata()[-1] for line in figure.axes[0].lines])
        if len(shown) == 2:
            (run / "metrics.csv").write_text(metrics)
            training.close()

    shell = SimpleNamespace(clear_output=lambda **_: None, display=display)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(**IPYTHON, display=shell))
    monkeypatch.setitem(sys.modules, "IPython.display", shell)
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((Path(__file__).parents[1] / "examples" / "monitor.ipynb").read_text())
    names: dict[str, Any] = {}
    with contextlib.ExitStack() as training:
        training.enter_context(RunFolder(run).lock())  # as the process that trains it does
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                exec("".join(cell["source"]), names)  # noqa: S102
                names["SECONDS"] = 0.01
    assert shown == [[4, 4], [4, 4], [12, 12]]
    out = capsys.readouterr().out
    assert "bird: running, step 4 of 12" in out
    assert "bird: finished, step 12 of 12" in out
    now = names["progress"](names["run"])
    assert now["dataset_percent"] == pytest.approx(100 * 12 * 4 * 16 / len(names["run"].dataset.split("train")))
    assert now["minutes"] > 0
    assert now["hours_per_pass"] * 3600 * now["tokens_per_second"] == pytest.approx(names["dataset_tokens"])


def test_example_notebook_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "notebook.py"))
    assert names["run"].metrics().last_step == 60
    assert math.isfinite(names["best"].evaluate().loss)
    assert names["attention"].weights.shape[:2] == (2, 2)
    assert names["lens"].top_ids.shape[0] == 2
    assert "def decode" in names["origin"]._repr_html_()
    assert capsys.readouterr() == ("", "")
