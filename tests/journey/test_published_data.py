"""Data as others publish it: orders of windows, own validation and test texts, CSV, shares."""

import json
import tomllib
from pathlib import Path

import pytest

from fledge.datasets.shards import open_dataset
from fledge.tracking.sinks.csv import read_metrics
from tiny import remains, write_text

SHORT = ("--train.batch", "64", "--train.eval_every", "0", "--train.sample_every", "0", "--train.save_every", "2")


@pytest.fixture
def texts(home) -> tuple[str, ...]:
    val, test = write_text(home.folder / "val", 1), write_text(home.folder / "test", 2)
    return "--data.val", "null", "--data.val_corpus", str(val), "--data.test_corpus", str(test), "--data.csv", "true"


@pytest.mark.parametrize("order", ["random", "sequential"])
def test_resumed_run_of_every_order_is_bit_identical(home, texts: tuple[str, ...], order: str) -> None:
    words = (*SHORT, *texts, "--data.order", order, "--optim.min_lr", "0.01", "--train.steps", "9")
    whole = remains(home.train("whole", *words))
    home.train("part", *words[:-1], "5")
    assert home.do("resume", "part", "--train.steps", "9", "--allow-changes") == 0
    found = remains(home.runs / "part")
    assert (found["model"], found["rng"]) == (whole["model"], whole["rng"])
    rows = {row["step"]: row["train/loss"] for row in whole["metrics"]}
    assert {row["step"]: row["train/loss"] for row in found["metrics"]} == rows


def test_published_splits_order_and_table(home, texts: tuple[str, ...], capsys) -> None:
    run = home.train("bird", *SHORT, *texts, "--data.order", "sequential", "--train.epochs", "2")
    config = tomllib.loads((run / "config.toml").read_text())
    dataset = open_dataset(Path(config["data"]["path"]))
    windows = (len(dataset.split("train")) - 17) // 16 + 1
    assert config["train"]["steps"] == 2 * -(-windows // 64)
    assert read_metrics(run)["train/tokens"][-1] == 2 * windows * 16
    assert (config["data"]["val_corpus"], config["data"]["csv"]) == (str(home.folder / "val"), True)
    announced = capsys.readouterr().err
    assert f"held out: all of '{home.folder / 'val'}'" in announced
    assert f"for the final test: all of '{home.folder / 'test'}'" in announced
    assert home.do("data", "show", "bird", "--step", str(config["train"]["steps"])) == 0
    assert capsys.readouterr().out.count("from token") == windows % 64
    assert home.do("eval", "bird", "--split", "test", "--json") == 0


def test_shares_are_announced(home, capsys) -> None:
    more = write_text(home.folder / "more", 3)
    words = ("--data.corpus", json.dumps([str(home.text), str(more)]), "--data.shares", "0.8,0.2", "--train.steps", "1")
    assert home.do("train", str(home.toml), *SHORT, *words) == 0
    announced = capsys.readouterr().err
    assert f"mixed 80 % '{home.text}' (all of its" in announced
    assert f"20 % '{more}' (" in announced


def test_held_out_text_beside_a_dataset_is_refused(home, capsys) -> None:
    assert home.do("train", str(home.toml), "--data.path", "data", "--data.val_corpus", "val") == 2
    err = capsys.readouterr().err
    assert "data.val_corpus has no effect: 'data' is a dataset" in err
    assert "fledge prepare TEXT --data.val_corpus val --out NEW" in err
