"""fledge eval: the loss on a whole split."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from fledge.cli.output import to_plain
from fledge.datasets.shards import open_dataset
from fledge.recipes.evaluate import evaluate
from fledge.runs.run_folder import open_run


def json_of(home, capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[no-untyped-def,type-arg]
    capsys.readouterr()
    assert home.do("eval", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def dataset_of(home):  # type: ignore[no-untyped-def]
    return open_dataset(Path(open_run("bird", home.runs).config()["data"]["path"]))


def test_result_equals_a_direct_token_by_token_sum(trained, capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(trained, capsys, "bird")
    model = open_run("bird", trained.runs, default="best").load().model
    split = dataset_of(trained).split("val")
    ids = split.read(0, len(split))
    nats, correct = 0.0, 0
    with torch.no_grad():
        for position in range(1, len(ids)):
            start = (position - 1) // 16 * 16
            logits = model(torch.from_numpy(ids[start:position]).unsqueeze(0))[0, -1].double()
            nats -= float(logits.log_softmax(-1)[ids[position]])
            correct += int(logits.argmax()) == ids[position]
    text = dataset_of(trained).tokenizer.decode(ids[1:])
    assert result["tokens"] == len(ids) - 1
    assert result["context"] == 16
    assert result["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["accuracy"] == pytest.approx(correct / (len(ids) - 1))
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_loss_equals_the_one_logged_in_training(trained, capsys: pytest.CaptureFixture[str]) -> None:
    state = json.loads((trained.runs / "bird" / "checkpoints" / "step-00000040" / "state.json").read_text())
    assert json_of(trained, capsys, "bird@40")["loss"] == state["val_loss"]


def test_split_can_be_chosen(trained, capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(trained, capsys, "bird", "--split", "train")
    assert (result["split"], result["tokens"]) == ("train", len(dataset_of(trained).split("train")) - 1)
    assert trained.do("eval", "bird", "--split", "test") == 2
    assert "no 'test' split" in capsys.readouterr().err


def test_text_and_json_agree(trained, capsys: pytest.CaptureFixture[str]) -> None:
    result = json_of(trained, capsys, "bird")
    assert trained.do("eval", "bird") == 0
    text = capsys.readouterr().out
    assert f"{result['loss']:.4f}  nats per token" in text
    assert f"{result['tokens']:,} tokens" in text


def test_another_dataset_with_the_same_tokenizer_is_evaluated(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.folder / "more.txt").write_text("the lazy dog sleeps. " * 40)
    tokenizer = str(own.runs / "bird" / "tokenizer.json")
    data = str(own.folder / "more")
    assert own.do("prepare", str(own.folder / "more.txt"), "--out", data, "--tokenizer", tokenizer) == 0
    assert (
        json_of(own, capsys, "bird", "--data", data)["tokens"]
        == len(open_dataset(own.folder / "more").split("val")) - 1
    )


def test_dataset_of_another_tokenizer_is_refused(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.folder / "other.txt").write_text("0123456789 " * 60)
    assert (
        own.do("prepare", str(own.folder / "other.txt"), "--out", str(own.folder / "other"), "--tokenizer.kind", "char")
        == 0
    )
    assert own.do("eval", "bird", "--data", str(own.folder / "other")) == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_missing_dataset_is_refused(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird")
    shutil.rmtree(home.folder / "cache")
    capsys.readouterr()
    assert home.do("eval", "bird") == 2
    assert "not a prepared dataset" in capsys.readouterr().err


def test_recipe_equals_the_command_and_prints_nothing(trained, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    result = evaluate("bird", runs=trained.runs)
    assert capsys.readouterr() == ("", "")
    assert {**to_plain(result), "figure": str(trained.runs / "bird" / "plots" / "eval-val.png")} == json_of(
        trained, capsys, "bird"
    )


def test_dtype_without_units_is_evaluated_in_fp32(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**open_run("bird", trained.runs).config()}
    config["train"] = {**config["train"], "dtype": "float16"}
    monkeypatch.setattr("fledge.runs.run_folder.RunFolder.config", lambda _: config)
    for units, dtype in ((False, "float32"), (True, "float16")):
        monkeypatch.setattr("fledge.core.device.has_units", lambda *_, there=units: there)
        monkeypatch.setattr("fledge.core.device.has_bf16_units", lambda _, there=units: not there)
        assert evaluate("bird", runs=trained.runs, device="cpu").dtype == dtype


def test_compare_tells_an_early_checkpoint_from_a_late_one(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(trained, capsys, "bird@40", "--compare", "bird@20")["comparison"]
    assert (found["run"], found["step"], found["same_tokenizer"]) == ("bird", 20, True)
    assert found["low"] <= found["difference"] <= found["high"] < 0
    assert "bird@40 is better than bird@20" in found["verdict"]
    assert found["metrics"] == {k: v for k, v in json_of(trained, capsys, "bird@20").items() if k in found["metrics"]}
    assert trained.do("eval", "bird@20", "--compare", "bird@40") == 0
    assert "bird@40 is better than bird@20" in capsys.readouterr().out


def test_compare_with_itself_finds_nothing(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(trained, capsys, "bird", "--compare", "bird")["comparison"]
    assert (found["difference"], found["low"], found["high"], found["p_value"]) == (0, 0, 0, 1)


def test_compare_with_another_tokenizer(own, capsys: pytest.CaptureFixture[str]) -> None:
    own.train("owl", "--tokenizer.kind", "bpe", "--tokenizer.vocab_size", "300")
    ours, theirs = json_of(own, capsys, "bird"), json_of(own, capsys, "owl")
    found = json_of(own, capsys, "bird", "--compare", "owl")["comparison"]
    assert ours["tokens"] != theirs["tokens"]
    assert found["same_tokenizer"] is False
    assert found["difference"] == pytest.approx(ours["bits_per_byte"] - theirs["bits_per_byte"], abs=1e-6)


def test_compare_on_different_text_is_refused(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.folder / "other.txt").write_text("0123456789 " * 200)
    own.train("owl", "--data.corpus", str(own.folder / "other.txt"))
    capsys.readouterr()
    assert own.do("eval", "bird", "--compare", "owl") == 2
    assert "different text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--compare", "nobody"), "no run 'nobody'"),
        (("--compare", "bird@77"), "no checkpoint '77'"),
        (("--figure", "figure.txt"), "end its name in .png"),
        (("--split", "valid"), "it has: train, val"),
        (("--metrics", "bleu"), "invalid choice: 'bleu'"),
        (("--metrics", "smol-gpt", "--split", "none", "--suite", "offline"), "--metrics draws from a split"),
        (("--batches", "0"), "'0' is not a positive integer"),
        (("--batches", "3", "--seed", "-1"), "--seed cannot be -1"),
        (("--seed", "1"), "--seed belongs to --batches and --metrics"),
        (("--batch-size", "4"), "--batch-size belongs to --batches"),
        (("--batches", "3", "--compare", "bird@20"), "--compare needs the whole split"),
        (("--batches", "3", "--figure", "figure.png"), "--figure needs the whole split"),
    ],
)
def test_wrong_arguments_are_refused(
    trained, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    capsys.readouterr()
    assert trained.do("eval", "bird", *words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_estimate_is_refused_before_the_whole_split_is_evaluated(
    trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.recipes.evaluate.evaluate", None)
    assert trained.do("eval", "bird", "--metrics", "smol-gpt", "--seed", "-1") == 2
    assert "--seed cannot be -1" in capsys.readouterr().err
    monkeypatch.setattr("fledge.datasets.shards.Split.__len__", lambda _: 16)
    assert trained.do("eval", "bird", "--metrics", "smol-gpt") == 2
    assert "no window of 16 and the token after it" in capsys.readouterr().err


def test_metrics_of_smol_gpt_stand_beside_ours_and_in_the_report(own, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("bird", "--metrics", "smol-gpt", "--batches", "5", "--batch-size", "3", "--seed", "7")
    found = json_of(own, capsys, *words)
    estimate = found["estimate"]
    expected = {"definition": "smol-gpt", "split": "val", "batches": 5, "batch_size": 3, "seed": 7, "context": 16}
    assert expected.items() <= estimate.items()
    assert list(estimate["metrics"]) == ["loss", "perplexity", "precision", "recall", "f1", "accuracy"]
    assert 1 < estimate["metrics"]["accuracy"]["mean"] < 16
    assert json_of(own, capsys, *words)["estimate"] == estimate
    assert own.do("eval", *words) == 0
    shown = capsys.readouterr().out
    for name, each in estimate["metrics"].items():
        name = "F1" if name == "f1" else name
        assert f"  {name:<13} {each['mean']:9.4f}   {each['stderr']:14.4f}" in shown
    assert f"{found['loss']:.4f}\n" in shown
    recorded = [json.loads(line) for line in (own.runs / "bird" / "evaluations.jsonl").read_text().splitlines()]
    assert [each["kind"] for each in recorded[-6:]] == ["split", "estimate"] * 3
    assert expected.items() <= recorded[-1].items()
    assert recorded[-1]["metrics"] == estimate["metrics"]
    assert own.do("report", "bird") == 0
    report = (own.runs / "bird" / "report.md").read_text()
    assert "5 random batches of the val split, by the definitions of smol-gpt" in report


def test_loss_can_be_estimated_from_random_batches(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(trained, capsys, "bird", "--batches", "200", "--batch-size", "8")
    assert "loss" not in found
    whole = json_of(trained, capsys, "bird")
    for name, each in found["estimate"]["metrics"].items():
        assert abs(each["mean"] - whole[name]) < 0.05 * whole[name] + 5 * each["stderr"], name
    assert trained.do("eval", "bird", "--batches", "3") == 0
    assert "from 3 random batches of 32 windows of 16 tokens, seed 0" in capsys.readouterr().out


def test_figure_is_drawn_where_it_is_wanted(trained, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "figure.png"
    assert json_of(trained, capsys, "bird", "--figure", str(file))["figure"] == str(file)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_figure_that_cannot_be_written_costs_no_result(
    trained, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert trained.do("eval", "bird", "--figure", str(tmp_path / "file" / "figure.png"), "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["figure"] is None
    assert "warning: no figure" in err
