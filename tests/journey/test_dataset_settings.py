"""[data] beside a dataset that is ready: refused where it cannot apply, and true in the config.toml of the run."""

import json
import re
import tomllib

import pytest

from fledge.core.files import read_json
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.char import CharTokenizer

SHORT = ("--train.steps", "1", "--train.eval_every", "0", "--train.sample_every", "0")


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (
            "--data.val 0.1",
            "data.val has no effect: 'data' is a dataset",
            "fledge prepare TEXT --data.val 0.1 --out NEW",
        ),
        ("--data.split_by tail", "data.split_by has no effect", "--data.split_by tail"),
        ("--data.dedup true", "data.dedup has no effect", "--data.dedup true"),
        ("--data.corpus text", "data.corpus is a text and data.path a dataset", "leave data.path out"),
    ],
)
def test_setting_without_effect_is_refused(home, capsys, words: str, error: str, hint: str) -> None:
    assert home.do("train", str(home.toml), "--data.path", "data", *words.split()) == 2
    err = capsys.readouterr().err
    assert error in err
    assert hint in err
    assert not home.runs.exists()


def test_config_says_how_a_ready_dataset_was_made(home) -> None:
    words = ("--data.test", "0.2", "--data.split_by", "document", "--data.min_length", "5", "--tokenizer.kind", "char")
    assert home.do("prepare", str(home.text), "--out", str(home.folder / "data"), *words) == 0
    run = home.train("bird", "--data.path", str(home.folder / "data"), *SHORT)
    made = read_json(home.folder / "data" / "dataset.json", "the manifest")["data"]
    config = tomllib.loads((run / "config.toml").read_text())["data"]
    assert {name: config.get(name) for name in made} == made
    assert (config["test"], config["split_by"], config["min_length"], config["val"]) == (0.2, "document", 5, 0.2)


def test_config_says_nothing_of_foreign_ids(home, capsys) -> None:
    letters = CharTokenizer(sorted(set("".join(path.read_text() for path in home.text.iterdir()))))
    save_tokenizer(letters, home.folder / "letters.json")
    (home.folder / "bins").mkdir()
    for name in ("train", "val"):
        ids = letters.encode((home.text / "0.txt").read_text())
        ids.astype("<u2").tofile(home.folder / "bins" / f"{name}.bin")
    foreign = ("--data.path", str(home.folder / "bins"), "--tokenizer.file", str(home.folder / "letters.json"))
    run = home.train("bird", *foreign, *SHORT)
    assert set(tomllib.loads((run / "config.toml").read_text())["data"]) <= {"path", "stride", "order"}
    longer = ("--train.steps", "2", "--allow-changes")
    assert home.do("resume", "bird", *longer) == 0
    assert set(tomllib.loads((run / "config.toml").read_text())["data"]) <= {"path", "stride", "order"}


def test_added_test_split_leaves_val_as_it_was(home) -> None:
    shards = []
    for number, words in enumerate([(), ("--data.test", "0.1")]):
        out = home.folder / f"data-{number}"
        assert home.do("prepare", str(home.text), "--out", str(out), "--tokenizer.kind", "char", *words) == 0
        shards.append(
            [each["sha256"] for each in json.loads((out / "dataset.json").read_text())["splits"]["val"]["shards"]]
        )
    assert shards[0] == shards[1] != []


def test_training_says_what_was_read_and_held_out(home, capsys) -> None:
    (home.text / "x.pdf").write_bytes(b"%PDF-1.4")
    (home.text / "latin.txt").write_bytes("café au lait\r\n".encode("latin-1") * 30)
    home.train("bird", *SHORT)
    said = capsys.readouterr().err
    read = r"text      read 5 files \(5 txt\), [\d.]+ KB; skipped 1: 1 pdf; 1 file read as Windows-1252"
    line = read + r"; held out [\d.]+ %: [\d.]+ K?B, the ends of 5 documents"
    assert re.search(line, said)
    home.train("duck", *SHORT)  # the dataset is in the cache
    assert re.search(line, capsys.readouterr().err)
    manifest = next((home.folder / "cache" / "datasets").glob("*/dataset.json")).read_text()
    assert str(home.folder) not in manifest.replace(json.dumps(str(home.text)), "")


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_dataset_given_as_text_is_refused(home, capsys, verb: str) -> None:
    data = str(home.folder / "data")
    assert home.do("prepare", str(home.text), "--out", data, "--tokenizer.kind", "char") == 0
    words = (str(home.toml), "--data.corpus", data) if verb == "train" else (data, "--out", f"{data}-2")
    assert home.do(verb, *words) == 2
    assert f"hint: use it as one: fledge train {data}" in capsys.readouterr().err
