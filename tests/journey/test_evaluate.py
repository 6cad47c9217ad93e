"""fledge eval: the whole split, once, and the numbers of the run."""

import json
import math
import shutil

import pytest
import torch

from fledge.datasets.shards import open_dataset
from fledge.runs.run_folder import open_run


def answer(home, capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[no-untyped-def,type-arg]
    capsys.readouterr()
    assert home.do("eval", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def dataset_of(home):  # type: ignore[no-untyped-def]
    return open_dataset(next((home.folder / "cache" / "datasets").glob("*")))


def test_it_gives_the_numbers_of_a_slow_direct_reckoning(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(trained, capsys, "bird")
    model = open_run("bird", trained.runs, default="best").load().model
    split = dataset_of(trained).split("val")
    ids = split.read(0, len(split))
    nats, right = 0.0, 0
    with torch.no_grad():
        for place in range(1, len(ids)):
            begin = (place - 1) // 16 * 16
            scores = model(torch.from_numpy(ids[begin:place]).unsqueeze(0))[0, -1].double()
            nats -= float(scores.log_softmax(-1)[ids[place]])
            right += int(scores.argmax()) == ids[place]
    text = dataset_of(trained).tokenizer.decode(ids[1:])
    assert found["tokens"] == len(ids) - 1
    assert found["context"] == 16
    assert found["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["accuracy"] == pytest.approx(right / (len(ids) - 1))
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)


def test_it_agrees_with_what_training_measured(trained, capsys: pytest.CaptureFixture[str]) -> None:
    state = json.loads((trained.runs / "bird" / "checkpoints" / "step-00000040" / "state.json").read_text())
    assert answer(trained, capsys, "bird@40")["loss"] == state["val_loss"]


def test_any_split_can_be_asked_for(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(trained, capsys, "bird", "--split", "train")
    assert (found["split"], found["tokens"]) == ("train", len(dataset_of(trained).split("train")) - 1)
    assert trained.do("eval", "bird", "--split", "test") == 2
    assert "no 'test' split" in capsys.readouterr().err


def test_in_words_it_tells_the_same(trained, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(trained, capsys, "bird")
    assert trained.do("eval", "bird") == 0
    words = capsys.readouterr().out
    assert f"{found['loss']:.4f} nats per token" in words
    assert f"{found['tokens']:,} tokens" in words


def test_another_dataset_of_the_same_tokenizer_can_be_judged(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.folder / "more.txt").write_text("the lazy dog sleeps. " * 40)
    tokenizer = str(own.runs / "bird" / "tokenizer.json")
    data = str(own.folder / "more")
    assert own.do("prepare", str(own.folder / "more.txt"), "--out", data, "--tokenizer", tokenizer) == 0
    assert (
        answer(own, capsys, "bird", "--data", data)["tokens"] == len(open_dataset(own.folder / "more").split("val")) - 1
    )


def test_a_dataset_of_another_tokenizer_is_refused(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.folder / "other.txt").write_text("0123456789 " * 60)
    assert (
        own.do("prepare", str(own.folder / "other.txt"), "--out", str(own.folder / "other"), "--tokenizer.kind", "char")
        == 0
    )
    assert own.do("eval", "bird", "--data", str(own.folder / "other")) == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_a_dataset_that_is_gone_is_told(home, capsys: pytest.CaptureFixture[str]) -> None:
    home.train("bird")
    shutil.rmtree(home.folder / "cache")
    capsys.readouterr()
    assert home.do("eval", "bird") == 2
    assert "not a prepared dataset" in capsys.readouterr().err
