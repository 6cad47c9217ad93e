"""bench/minutes.py: peers are evaluated like `fledge eval` does it, and a file of results is continued."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.evaluation.loss import evaluate_loss
from fledge.model.config import ModelConfig
from fledge.model.init import build

BENCH = Path(__file__).parents[2] / "bench"
LENGTHS = np.array([1, 2, 3, 4, 1, 1, 2, 2, 0])  # bytes of each token
KEY = {"text": "a.txt", "sha256": "0", "minutes": 1.0, "name": "fledge train", "peer": {}, "seed": 1}
ABOUT = {"machine": "here", "versions": "torch", "commit": "abc"}


@pytest.fixture
def bench() -> Iterator[Any]:
    """Imports a module of bench/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield importlib.import_module


def results(bench: Any, file: Path | None, **about: str) -> Any:
    module: ModuleType = bench("minutes")
    return module.Results({**ABOUT, **about}, file)


def found(bits: float) -> dict[str, Any]:
    return {"bits_per_byte": bits, "steps": 10, "seconds": 60.0, "parameters": 1_000_000}


@pytest.mark.parametrize("length", [2, 33, 65, 100])  # one target, whole windows, and a shorter last one
def test_bits_per_byte_of_peers_equal_those_of_eval(bench: Any, length: int) -> None:
    ids = np.random.default_rng(length).integers(0, 9, length).astype(np.uint16)
    split = Split("val", [ids], [np.zeros(1)])
    model = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=32, vocab_size=9), 0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(20)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), ignore_index=-1)

    bits = bench("minutes_peers").bits_per_byte(loss, torch.from_numpy(split.read(0, length)), LENGTHS, 32)
    expected = evaluate_loss(model, split, LENGTHS, Machine("cpu", "float32")).bits_per_byte
    assert bits == pytest.approx(expected, rel=1e-5)


def test_file_of_results_is_continued(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> dict[str, Any]:
        raise SystemExit("no such checkout")

    file, peer = tmp_path / "results.json", {**KEY, "name": "nanochat", "peer": {"library": "nanochat"}}
    first = results(bench, file)
    first.add(KEY, lambda: found(1.5))
    first.add(peer, fails)
    again = results(bench, file)
    again.add(KEY, lambda: found(1.4))
    again.add(peer, lambda: found(2.0))
    assert [row["bits_per_byte"] for row in again.current] == [1.5, 2.0]
    assert len(json.loads(file.read_text())) == 3
    bench("minutes").report("a.txt", 1.0, again.current)
    shown = capsys.readouterr().out
    assert "no such checkout" in shown
    assert "25.0 % fewer bits per byte than the best of nanochat (wanted: 15 %)" in shown


def test_other_commit_measures_ours_again_but_no_peer(bench: Any, tmp_path: Path) -> None:
    file, peer = tmp_path / "results.json", {**KEY, "name": "nanochat", "peer": {"library": "nanochat"}}
    for key in (KEY, peer):
        results(bench, file).add(key, lambda: found(1.5))
    later = results(bench, file, commit="def")
    for key in (KEY, peer):
        later.add(key, lambda: found(1.4))
    assert [row["bits_per_byte"] for row in later.current] == [1.4, 1.5]
    other_machine = results(bench, file, machine="there")
    other_machine.add(peer, lambda: found(1.3))
    assert other_machine.current[0]["bits_per_byte"] == 1.3
