"""`fledge report`: of a finished run, and of those that are not."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fledge.runs.evaluations import EVALUATIONS, read_evaluations
from fledge.runs.run_folder import RunFolder


@pytest.fixture
def bird(own) -> Path:
    return own.runs / "bird"


def gathered(home, capsys: pytest.CaptureFixture[str], name: str = "bird") -> dict:
    capsys.readouterr()
    assert home.do("report", name, "--json") == 0
    return json.loads(capsys.readouterr().out)["report"]


def test_report_holds_all_that_the_run_recorded(own, bird: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.do("eval", "bird") == 0
    assert own.do("report", "bird") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [str(bird / "report.html"), str(bird / "report.md")]
    found = gathered(own, capsys)
    assert (found["state"], found["method"], found["problems"]) == ("finished", "pretrain", [])
    assert found["training"]["step"] == found["training"]["steps"] == 40
    assert found["model"]["n_layer"] == RunFolder(bird).model_config().n_layer
    assert found["data"]["splits"]["train"]["tokens"] > 0
    assert found["checkpoints"][0]["step"] == 40
    assert found["evaluations"][-1]["loss"] == pytest.approx(found["result"]["val_loss"], rel=1e-4)
    assert {each["name"] for each in found["charts"]} >= {"loss", "bits_per_byte", "lr", "grad_norm"}
    assert found["samples"][-1]["step"] == 40
    assert found["hashes"]["dataset"] == RunFolder(bird).metadata()["dataset_sha256"]
    page, markdown = (bird / "report.html").read_text(), (bird / "report.md").read_text()
    assert all(text in page and text in markdown for text in ("bird", "finished", f"{found['result']['val_loss']:.4f}"))
    assert "## Hashes" in markdown
    before = page
    assert own.do("report", "bird") == 0
    assert (bird / "report.html").read_text() == before, "the same run gives the same page"


@pytest.fixture
def dataset_gone(bird: Path) -> Iterator[None]:
    place = Path(RunFolder(bird).metadata()["dataset"])
    away = place.rename(place.with_name("away"))
    yield
    shutil.rmtree(place, ignore_errors=True)
    away.rename(place)


def test_command_of_the_report_trains_the_same_weights(own, capsys) -> None:
    found = gathered(own, capsys)
    assert own.do(*shlex.split(found["reproduce"][-1])[1:]) == 0
    again = gathered(own, capsys, "bird-again")
    assert again["checkpoints"][0]["model_sha256"] == found["checkpoints"][0]["model_sha256"]


def test_command_prepares_a_dataset_that_is_gone(own, dataset_gone: None, capsys) -> None:
    found = gathered(own, capsys)
    assert "no longer" in found["problems"][0]
    assert own.do(*shlex.split(found["reproduce"][-1])[1:]) == 0
    again = gathered(own, capsys, "bird-again")
    assert again["checkpoints"][0]["model_sha256"] == found["checkpoints"][0]["model_sha256"]


def test_tokenizer_is_that_of_the_dataset(own, bird: Path, capsys) -> None:
    """The setting says only how to train one: with a prepared dataset it stays at its default."""
    kind, config = RunFolder(bird).tokenizer().kind, bird / "config.toml"
    other = "bpe" if kind == "char" else "char"
    changed = config.read_text().replace(f'kind = "{kind}"', f'kind = "{other}"')
    assert changed != config.read_text()
    config.write_text(changed)
    assert gathered(own, capsys)["data"]["tokenizer"]["kind"] == kind


def test_out_names_a_file_or_a_folder(own, tmp_path: Path) -> None:
    assert own.do("report", "bird", "--out", str(tmp_path / "new" / "page.html")) == 0
    assert own.do("report", "bird", "--out", str(tmp_path / "folder")) == 0
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")]
    assert {"new/page.html", "folder/report.html"} <= set(names)
    assert (tmp_path / "new" / "page.md").exists()
    assert not (own.runs / "bird" / "report.html").exists()


def test_unfinished_run_without_metrics_is_reported(own, bird: Path, capsys) -> None:
    for name in ("metrics.csv", "samples.md", "events.jsonl"):
        (bird / name).unlink()
    shutil.rmtree(bird / "checkpoints")
    found = gathered(own, capsys)
    assert (found["state"], found["charts"], found["checkpoints"]) == ("killed", [], [])
    assert "No metrics yet" in (bird / "report.html").read_text()


@pytest.mark.parametrize(
    "name", ["config.toml", "run.json", "metrics.csv", "events.jsonl", "tokenizer.json", EVALUATIONS]
)
@pytest.mark.parametrize("content", [b"", b"\xff\x00{[", b'{"format": 1}\n', b"[model]\nn_layer = 'x'\n"])
def test_damaged_file_leaves_the_rest_of_the_report(own, bird: Path, capsys, name: str, content: bytes) -> None:
    (bird / name).write_bytes(content)
    found = gathered(own, capsys)
    assert found["run"] == "bird"
    assert "<h1>" in (bird / "report.html").read_text()
    if name in ("config.toml", "run.json", "tokenizer.json"):
        assert found["problems"]


def test_damaged_checkpoint_is_named(own, bird: Path, capsys) -> None:
    (bird / "checkpoints" / "step-00000020" / "manifest.json").write_text("{")
    found = gathered(own, capsys)
    assert any("step-00000020" in problem for problem in found["problems"])
    assert found["checkpoints"][0]["step"] == 40


def test_run_that_does_not_exist_is_refused(own, capsys) -> None:
    assert own.do("report", "brid") == 2
    assert "no run 'brid'" in capsys.readouterr().err


def test_evaluations_are_kept_with_damaged_lines_left_out(own, bird: Path) -> None:
    assert own.do("eval", "bird@20") == 0
    with (bird / EVALUATIONS).open("a") as file:
        file.write('{"kind": "split"}\nnot json\n[1]\n{"kind": "tasks", "step": 1, "tasks": 5}\n')
    assert own.do("eval", "bird@40") == 0
    assert [(each["kind"], each["step"]) for each in read_evaluations(RunFolder(bird))] == [
        ("split", 20),
        ("split", 40),
    ]


def test_evaluation_of_a_run_that_cannot_be_written_succeeds(own, bird: Path, capsys) -> None:
    (bird / EVALUATIONS).mkdir()
    assert own.do("eval", "bird") == 0
    assert "is not kept" in capsys.readouterr().err
