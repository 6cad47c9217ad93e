"""Provenance: the samples it names are those that the loader gave to the step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fledge.batches.loader import Loader, WindowReader
from fledge.batches.sampler import WindowSampler
from fledge.cli.main import main
from fledge.core.device import Machine
from fledge.core.errors import UserError
from fledge.insight.provenance import Exposure, Provenance
from fledge.runs.run_folder import RunFolder, open_run
from fledge.tracking.sinks.csv import read_metrics
from fledge.training import setup
from fledge.training.step import TrainStep
from tiny import TINY_TOML, document_starts, write_text


def train(folder: Path, *words: str) -> RunFolder:
    """Train a tiny model in an empty folder."""
    toml, runs = folder / "tiny.toml", folder / "runs"
    toml.write_text(TINY_TOML)
    corpus = str(write_text(folder / "text"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        assert main(["train", str(toml), "--run", "bird", "--data.corpus", corpus, "--runs", str(runs), *words]) == 0
    return open_run("bird", runs)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(tmp_path_factory.mktemp("trained"), "--train.steps", "20", "--train.eval_every", "0")


@pytest.fixture
def provenance(run: RunFolder) -> Provenance:
    return Provenance(run)


@pytest.mark.parametrize("step", [1, 17, 20])
def test_samples_of_a_step_are_what_the_loader_gave(provenance: Provenance, step: int) -> None:
    settings, dataset = provenance.settings, provenance.dataset
    split, context, batch = dataset.split("train"), settings.model.context, settings.train.batch
    order = WindowSampler(len(split), context, settings.data.stride or context, settings.train.seed)
    [given] = Loader(WindowReader(split, order), batch, Machine("cpu", "float32")).micro_batches(step - 1, batch)
    rows = [[*row.tolist(), int(last)] for row, last in zip(given.inputs, given.targets[:, -1], strict=True)]
    samples = provenance.step(step)
    assert [sample.text for sample in samples] == [dataset.tokenizer.decode(row) for row in rows]
    assert [sample.number for sample in samples] == list(range(4 * step - 4, 4 * step))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_split_the_batch_in_order(provenance: Provenance, ranks: int) -> None:
    samples = provenance.step(5, ranks)
    assert [replace(sample, rank=0) for sample in samples] == provenance.step(5)
    assert [sample.rank for sample in samples] == [index * ranks // 4 for index in range(4)]


def test_micro_batches_split_the_batch_of_a_rank(tmp_path: Path) -> None:
    provenance = Provenance(train(tmp_path, "--train.micro_batch", "1", "--train.steps", "2"))
    assert [sample.micro_batch for sample in provenance.step(1)] == [0, 1, 2, 3]
    assert [(sample.rank, sample.micro_batch) for sample in provenance.step(1, 2)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_automatic_micro_batch_is_read_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "estimate", lambda *_, **__: 2)
    provenance = Provenance(train(tmp_path, "--train.micro_batch", "auto", "--train.steps", "2"))
    assert [sample.micro_batch for sample in provenance.step(1)] == [0, 0, 1, 1]
    assert provenance.batch_sizes(2) == (2, 2)
    assert provenance.batch_sizes(4) == (1, None)  # the saved size belongs to another number of ranks
    assert {sample.micro_batch for sample in provenance.step(1, 4)} == {None}


def test_documents_are_those_of_the_window(provenance: Provenance) -> None:
    starts = document_starts(provenance.dataset.split("train"))
    for sample in provenance.samples(range(51)):
        first, last = sample.documents
        assert starts[first] <= sample.start
        assert first + 1 == len(starts) or starts[first + 1] > sample.start
        assert last + 1 == len(starts) or starts[last + 1] > sample.start + len(sample.text) - 1


def test_after_a_rollback_the_skipped_batches_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TrainStep._attempt

    def attempt(self: TrainStep, step: int) -> Any:
        found = usual(self, step)
        return replace(found, loss=found.loss * float("nan")) if self.skipped.batch(step) in (8, 9, 10) else found

    monkeypatch.setattr(TrainStep, "_attempt", attempt)
    words = ("--train.steps", "16", "--train.save_every", "6", "--train.eval_every", "0")
    provenance = Provenance(train(tmp_path, *words))
    assert [sample.number for sample in provenance.step(6)] == [20, 21, 22, 23]
    assert [sample.number for sample in provenance.step(7)] == [44, 45, 46, 47]
    assert provenance.exposures(0, 700, 16) == scanned_exposures(provenance, 0, 700, 16)


def scanned_exposures(provenance: Provenance, first: int, stop: int, until: int) -> list[Exposure]:
    """Every sample of every step, looked at."""
    found = []
    for step in range(1, until + 1):
        for sample in provenance.step(step):
            targets = range(sample.start + 1, sample.start + provenance.settings.train_context + 1)
            if count := sum(first <= target < stop for target in targets):
                found.append(Exposure(step, sample.number, count))
    return found


@pytest.mark.parametrize(
    ("first", "stop", "until"), [(0, 1, 20), (100, 130, 20), (500, 501, 20), (4, 90, 7), (3, 9, 0)]
)
def test_exposures_are_those_that_a_scan_finds(provenance: Provenance, first: int, stop: int, until: int) -> None:
    assert provenance.exposures(first, stop, until) == scanned_exposures(provenance, first, stop, until)


def test_sequences_shorter_than_the_context_are_traced(tmp_path: Path) -> None:
    shorter = ("--model.window", "5", "--train.context", "5")
    provenance = Provenance(train(tmp_path, "--train.steps", "6", "--train.eval_every", "0", *shorter))
    assert provenance.settings.model.context > 5
    assert {len(sample.text) for sample in provenance.step(3)} == {6}  # characters, with the last target
    assert provenance.exposures(0, 700, 6) == scanned_exposures(provenance, 0, 700, 6)
    batch = provenance.settings.train.batch
    assert read_metrics(provenance.run.folder)["train/tokens"][-1] == 6 * batch * 5


@pytest.mark.parametrize("step", [0, 21])
def test_step_outside_the_run_is_refused(provenance: Provenance, step: int) -> None:
    with pytest.raises(UserError, match=f"there is no step {step}"):
        provenance.step(step)


@pytest.mark.parametrize("order", ["random", "sequential"])
def test_every_order_can_be_traced(tmp_path: Path, order: str) -> None:
    words = ("--data.order", order, "--train.epochs", "1.2", "--train.batch", "60", "--train.eval_every", "0")
    provenance = Provenance(train(tmp_path, *words))
    steps = provenance.settings.train.steps
    assert provenance.exposures(0, 700, steps) == scanned_exposures(provenance, 0, 700, steps)
    rows = [len(provenance.step(step)) for step in range(1, steps + 1)]
    table = read_metrics(provenance.run.folder)
    assert table["train/tokens"][-1] == sum(rows) * provenance.settings.model.context
    if order == "sequential":  # the epoch ends with a short batch
        assert 0 < min(rows) < max(rows) == 60
        assert provenance.step(1)[0].start == 0
    else:
        assert set(rows) == {60}
