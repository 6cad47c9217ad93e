"""Ranks that train together learn what one process learns, and a run can go on with any number of them."""

import csv
import itertools
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fault_campaign import WHOLE, teller
from fledge.checkpoint import store, thinning
from fledge.tracking.sinks.csv import read_metrics

BATCH = ("--train.batch", "8", "--train.steps", "8", "--train.eval_every", "4", "--train.save_every", "2")
KEPT = (*BATCH, "--train.keep_last", "9", "--train.sample_every", "4")
NEXT = {1: 2, 2: 4, 4: 1}  # saved by so many, gone on with by so many
TOPOLOGIES = list(itertools.product((1, 2, 4), (None, 2, 1), (2, 4, 6)))
DROPOUT = ("--model.dropout", "0.2")
SEEN = ("train/loss", "val/loss", "val/bits_per_byte")


# What each rank is given to learn from: of every global batch, its rows in their order.
NOTED = """
import json, os
from fledge.batches.loader import Loader

usual = Loader.micro_batches

def noted(self, number, size):
    batches = usual(self, number, size)
    rows = [row for batch in batches for row in batch.inputs.tolist()]
    with open({folder!r} + "/rank-" + os.environ["RANK"], "a") as file:
        print(json.dumps([number, rows]), file=file)
    return batches

Loader.micro_batches = noted
"""


def batches(folder: Path, size: int) -> dict[int, list[list[int]]]:
    """Global batch → its rows, from the first rank to the last."""
    found: dict[int, list[list[int]]] = defaultdict(list)
    for rank in range(size):
        for line in (folder / f"rank-{rank}").read_text().splitlines():
            number, rows = json.loads(line)
            found[number] += rows
    return found


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in SEEN if row[name]]


def layer_statistics(run: Path) -> dict[str, float]:
    return {name: values[-1] for name, values in read_metrics(run).items() if name.startswith("stats/")}


def near(run: Path) -> Any:
    return pytest.approx(losses(run), abs=1e-5)


@pytest.mark.parametrize(("size", "micro", "point"), TOPOLOGIES if WHOLE else TOPOLOGIES[4::9])
def test_resume_with_another_number_of_ranks(
    home: Any,
    together: Callable[..., str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    size: int,
    micro: int | None,
    point: int,
) -> None:
    def seen(words: Sequence[str], size: int, name: str) -> dict[int, list[list[int]]]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "noted.py").write_text(NOTED.format(folder=str(folder)))
        together(words, size, str(folder / "noted.py"))
        return batches(folder, size)

    whole = seen(home.training("alone", *KEPT), 1, "by-one")
    alone, run = home.runs / "alone", home.runs / "run"
    assert [len(whole[number]) for number in range(8)] == [8] * 8
    split = () if micro is None else ("--train.micro_batch", str(micro))
    assert seen(home.training("run", *KEPT, *split), size, "before") == whole
    assert losses(run) == near(alone)
    again = seen(home.words("resume", f"run@{point}"), NEXT[size], "after")
    assert again == {number: whole[number] for number in range(point, 8)}
    assert losses(run) == near(alone)
    assert len(losses(run)) == len(losses(alone))
    assert (run / "samples.md").read_text() == (alone / "samples.md").read_text()
    teller(record_property)("the same rows and losses", f"saved by {size}, gone on with by {NEXT[size]}", 1)


@pytest.mark.parametrize(("parallel", "size"), [("ddp", 4), ("fsdp", 2)])
def test_same_number_of_ranks_is_bit_identical(
    home: Any, together: Callable[..., str], outcome_of: Callable[[Path], Any], parallel: str, size: int
) -> None:
    by_time = ("--train.save_seconds", "1e-9", "--train.history", "3")  # all ranks save at the same step, or none
    settings = (*KEPT, *DROPOUT, "--train.parallel", parallel, "--train.micro_batch", "1", *by_time)
    together(home.training("one", *settings), size)
    expected = outcome_of(home.runs / "one")
    assert len(expected["rng"]) == len(set(expected["rng"].values())) == size, "every rank has a chance of its own"
    shutil.copytree(home.runs / "one", home.runs / "two")
    together(home.words("resume", "two@4"), size)
    assert outcome_of(home.runs / "two") == expected


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_fsdp_learns_like_ddp(home: Any, together: Callable[..., str], optimizer: str) -> None:
    settings = (*KEPT, "--optim.optimizer", optimizer, "--optim.weight_decay", "0.1", "--model.tied", "true")
    alone = home.train("alone", *settings, "--track.statistics", "8")
    for parallel in ("ddp", "fsdp"):
        together(home.training(parallel, *settings, "--train.parallel", parallel, "--track.statistics", "8"), 2)
        assert losses(home.runs / parallel) == near(alone)
        found, expected = layer_statistics(home.runs / parallel), layer_statistics(alone)
        assert found.keys() == expected.keys()
        for name in found:  # activations are those of one sequence of each rank: of others than alone
            close = 0.3 if "activation" in name or "entropy" in name else 0.01
            assert found[name] == pytest.approx(expected[name], rel=close), name
    assert home.do("resume", "fsdp@4") == 0, "what parts have saved is whole"
    assert losses(home.runs / "fsdp") == near(alone)
    together(home.words("resume", "fsdp@4"), 2)
    assert losses(home.runs / "fsdp") == near(alone), "and is taken apart again"


def checkpoint_without_optimizer_state(home: Any, newest: Path, weight_shards: set[str], weights: Any) -> None:
    """One that was saved as weights only, and one that was stripped to them."""
    first = store.verify(newest.with_name("step-00000001"))
    assert first.weights_only
    assert home.do("generate", "parts@1", "--tokens", "3") == 0
    together_files = {path.name for path in first.folder.iterdir()}
    assert len(together_files) == 6, "a file for each rank, manifest.json and state.json"
    thinning.strip_to_weights(store.verify(newest))
    assert {path.name for path in newest.iterdir()} == {*weight_shards, "manifest.json", "state.json"}
    stripped = store.load(store.verify(newest))
    assert stripped.optimizer == {}
    assert all(torch.equal(stripped.weights[name], tensor) for name, tensor in weights.items())
    assert home.do("resume", "parts@1", "--verify") == 0


def test_sharded_checkpoint_for_any_number_of_ranks(
    home: Any, together: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = home.train("alone", *KEPT)
    in_parts = ("--train.parallel", "fsdp", "--train.sharded_save", "true", "--train.history", "4")
    together(home.training("parts", *KEPT, *in_parts), 4)
    newest = home.runs / "parts" / "checkpoints" / "step-00000008"
    held = {path.name for path in newest.iterdir()}
    weight_shards = {f"shard-0000{rank}-model-00001-of-00002.safetensors" for rank in range(1, 5)}
    shards = weight_shards | {f"shard-0000{rank}-model-00002-of-00002.safetensors" for rank in range(1, 5)}
    assert held == {*shards, "manifest.json", "state.json"}, "every rank wrote its own, and nothing is a pickle"
    manifest = json.loads((newest / "manifest.json").read_text())
    assert set(manifest["files"]) == {*shards, "state.json"}
    weights = store.load(store.verify(newest)).weights
    for name, tensor in store.load(store.verify(alone / "checkpoints" / newest.name)).weights.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=0)
    checkpoint_without_optimizer_state(home, newest, weight_shards, weights)
    together(home.words("resume", "parts@4"), 2)
    assert losses(home.runs / "parts") == near(alone)
    assert home.do("resume", "parts@2") == 0
    assert losses(home.runs / "parts") == near(alone)
    capsys.readouterr()
    for name in ("parts@2", "alone@2"):
        assert home.do("generate", name, "--greedy", "--tokens", "9") == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one == other
    together(home.words("resume", "parts@2", "--verify"), 2)
    damaged = home.runs / "parts" / "checkpoints" / "step-00000002" / max(weight_shards)
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert home.do("generate", "parts@2") == 2
    assert f"{damaged} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_verify_with_the_same_ranks_and_with_one(
    home: Any, together: Callable[..., str], capsys: pytest.CaptureFixture[str], parallel: str
) -> None:
    together(home.training("two", "--train.parallel", parallel, "--model.dropout", "0.1"), 2)
    capsys.readouterr()
    assert home.do("resume", "two", "--verify") == 0
    alone = capsys.readouterr().out
    assert alone.count("…  identical") == 4
    assert together(home.words("resume", "two", "--verify"), 2) == alone


def test_fsdp_evaluates_last_and_best_checkpoint_on_the_whole_split(home: Any, together: Any, capsys: Any) -> None:
    sample = (
        "--data.val",
        "0.3",
        "--train.eval_every",
        "10",
        "--train.eval_tokens",
        "160",
        "--train.sample_every",
        "0",
    )
    too_fast = ("--optim.lr", "0.3", "--optim.schedule", "constant", "--optim.warmup_steps", "29")  # at the end
    together(
        home.training(
            *("bird", *sample, *too_fast, "--train.loss_spike", "0"),
            *("--train.steps", "30", "--train.batch", "8", "--train.parallel", "fsdp"),
        ),
        2,
    )
    metrics = read_metrics(home.runs / "bird")
    assert metrics["val_best/step"][-1] < 30, metrics["val/loss"]
    for reference, group in (("bird", "val_best"), ("bird@latest", "val_whole")):
        capsys.readouterr()
        assert home.do("eval", reference, "--json") == 0
        assert json.loads(capsys.readouterr().out)["loss"] == pytest.approx(metrics[f"{group}/loss"][-1], rel=1e-6)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_start_from_the_same_fitted_weights(home: Any, together: Callable[..., str], parallel: str) -> None:
    fit = (*KEPT, "--train.ngram_steps", "20", "--model.bigram_rows", "300", "--model.bigram_pairs", "frequent")
    fit += ("--train.parallel", parallel)
    alone = home.train("alone", *fit, "--train.threads", "1")
    together(home.training("two", *fit), 2)
    checkpoints = [run / "checkpoints" / "step-00000000" for run in (alone, home.runs / "two")]
    ours, theirs = (store.load(store.verify(checkpoint)).weights for checkpoint in checkpoints)
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    assert losses(home.runs / "two") == near(alone)
    together(home.words("resume", "two@0"), 2)
    assert losses(home.runs / "two") == near(alone)
