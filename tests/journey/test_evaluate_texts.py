"""fledge eval --references and --continuations: generated texts, measured."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch

from fledge.datasets.shards import open_dataset
from fledge.recipes.evaluate_texts import evaluate_generated
from fledge.runs.run_folder import open_run


def texts_of(home: Any, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert home.do("eval", "bird", "--split", "none", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)["texts"]


def greedy(run: Any, prompt: list[int], count: int) -> list[int]:
    """Without a cache, and without an end."""
    context = run.model.config.context
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            assert len(tokens) <= context
            tokens.append(int(run.model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_continuations_of_the_split_equal_a_direct_computation(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    found = texts_of(trained, capsys, "--continuations", "3")
    run = open_run("bird", trained.runs, default="best").load()
    dataset = open_dataset(Path(run.run.config()["data"]["path"]))
    assert found["texts"] == len(found["samples"]) == 3
    text = dataset.tokenizer.decode(dataset.split("val").read(0, len(dataset.split("val"))))
    for sample in found["samples"]:
        assert sample["prompt"] + sample["reference"] in text
        size = len(run.tokenizer.encode(sample["reference"]))
        expected = greedy(run, run.tokenizer.encode(sample["prompt"]).tolist(), size)
        assert sample["generated"] == run.tokenizer.decode(expected)
    made, references = ([each[name] for each in found["samples"]] for name in ("generated", "reference"))
    assert found["bleu"] == sacrebleu.BLEU().corpus_score(made, [references]).score
    assert found["chrf"] == sacrebleu.CHRF().corpus_score(made, [references]).score


def test_copies_of_the_training_split_are_found(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The text repeats one sentence, so its continuations stand in the training split."""
    train = open_dataset(Path(open_run("bird", own.runs).config()["data"]["path"])).split("train")
    copied = open_run("bird", own.runs).tokenizer().decode(train.read(100, 200))
    file = own.folder / "references.jsonl"
    rows = [{"prompt": "the", "reference": copied}, {"prompt": "the", "references": [copied[::-1], "x"]}]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = texts_of(own, capsys, "--references", str(file))
    assert (found["texts"], found["copied_references"]) == (2, 0.5)
    assert 0 <= found["copied"] <= 1


def test_text_for_people(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("eval", "bird", "--continuations", "2") == 0
    text = capsys.readouterr().out
    for word in ("loss", "accuracy", "BLEU", "chrF", "ROUGE-L", "repetition", "loops", "2 continuations"):
        assert word in text
    assert max(len(line) for line in text.splitlines() if "figure: " not in line) <= 80  # its path may be long


def test_generating_does_not_change_the_other_numbers(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for words in ((), ("--continuations", "2")):
        capsys.readouterr()
        assert trained.do("eval", "bird", *words, "--json") == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1].pop("texts")["texts"] == 2
    assert found[0] == found[1]


def test_references_need_no_dataset(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An imported model has none."""
    run = open_run("bird", own.runs)
    lines = (run.folder / "config.toml").read_text().splitlines()
    run.replace_config("\n".join(line for line in lines if not line.startswith("path =")))
    file = own.folder / "references.jsonl"
    file.write_text('{"prompt": "the ", "reference": "quick brown fox"}')
    found = evaluate_generated("bird", file, runs=own.runs)
    capsys.readouterr()
    assert own.do("eval", "bird", "--references", str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["texts"] == asdict(found)
    assert (found.texts, found.copied, found.copied_references) == (1, None, None)


def test_bad_input_is_refused(trained: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "broken").write_text('{"prompt": "the", "reference": "fox"}\n{"prompt": "a"\n')
    (tmp_path / "empty").write_text("")
    for name, message in (("broken", "line 2 of"), ("empty", "is empty"), ("missing", "no file")):
        capsys.readouterr()
        assert trained.do("eval", "bird", "--references", str(tmp_path / name)) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert out == ""
    assert trained.do("eval", "bird", "--continuations", "0") == 2
    assert trained.do("eval", "bird", "--split", "none") == 2
    assert "nothing to evaluate" in capsys.readouterr().err
    assert trained.do("eval", "bird", "--continuations", "2", "--references", str(tmp_path / "broken")) == 2


def test_missing_library_is_told_before_anything_is_computed(
    trained: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fledge.recipes.evaluate.evaluate_split", None)
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    capsys.readouterr()
    assert trained.do("eval", "bird", "--continuations", "2") == 2
    out, err = capsys.readouterr()
    assert "hint: pip install 'fledge[eval]'" in err
    assert out == ""
