"""bench/ablations.py: every part trains and changes the result, patches of strength 0 do not, and rows are kept."""

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ("ablation_model", "ablation_update", "ablation_parts", "ablation_run", "ablations")
TINY: dict[str, dict[str, Any]] = {
    "tokenizer": {"vocab_size": 300},
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": 16, "bigram_rows": 64},
    "train": {"batch": 4, "ngram_steps": 2, "sampled_softmax": 4, "dtype": "float32"},
}
# More updates where two change nothing: an average of the last fifth, or over a twentieth of them.
STEPS = {"average": 10, "average_no_cooldown": 10, "ema": 40}


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, Any]]:
    """Modules of bench/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        yield {name: importlib.import_module(name) for name in NAMES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A text of four documents, and the cache for its dataset."""
    folder = tmp_path_factory.mktemp("ablations")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        tiny.write_text(folder / "text")
        yield folder
    torch.set_num_threads(threads)


def spec(folder: Path, part: str, steps: int = 2, **more: Any) -> dict[str, Any]:
    text = str(folder / "text")
    return {"text": text, "settings": TINY, "part": part, "seed": 1, "eval_tokens": 400, "steps": steps, **more}


def figures(row: dict[str, Any]) -> list[float]:
    return [row[name] for name in ("bits_per_byte", "loss", "train_loss")]


def built(bench: dict[str, Any], folder: Path, part: str, steps: int = 4) -> tuple[Any, Any]:
    return bench["ablation_run"].Run(spec(folder, part)).build(part, steps)


def test_every_part_trains_and_changes_the_result(bench: dict[str, Any], folder: Path) -> None:
    run, parts = bench["ablation_run"].run, bench["ablation_parts"].PARTS
    baselines = {steps: figures(run(spec(folder, "baseline", steps))) for steps in (2, *set(STEPS.values()))}
    for part in parts.keys() - {"baseline"}:
        steps = STEPS.get(part, 2)
        row = run(spec(folder, part, steps))
        assert "skipped" not in row, (part, row)
        assert row["steps"] == steps
        assert all(math.isfinite(value) for value in figures(row)), (part, row)
        assert figures(row)[:2] != baselines[steps][:2], part


def test_patches_of_strength_0_change_nothing(bench: dict[str, Any], folder: Path) -> None:
    run, parts = bench["ablation_run"].run, bench["ablation_parts"].PARTS
    baseline = figures(run(spec(folder, "baseline", 6)))
    tried = [name for name, part in parts.items() if part.patch and not part.settings]
    for part in set(tried) - {"polar_express", "documents"}:
        assert figures(run(spec(folder, part, 6, strength=0.0))) == baseline, part
    assert len(tried) > 10


def test_parts_without_effect_are_left_out(bench: dict[str, Any], folder: Path) -> None:
    same = {**TINY, "train": {**TINY["train"], "batch": 16}}
    assert "already" in bench["ablation_run"].run(spec(folder, "batch_16", settings=same))["skipped"]
    single = spec(folder, "documents", text=str(folder / "text" / "0.txt"))
    assert "single document" in bench["ablation_run"].run(single)["skipped"]


def test_polar_express_brings_singular_values_near_1(bench: dict[str, Any], folder: Path) -> None:
    training, _ = built(bench, folder, "polar_express")
    u, v = (torch.linalg.qr(torch.randn(24, 24))[0] for _ in range(2))
    matrix = u @ torch.diag(torch.linspace(0.02, 1, 24)) @ v
    (update,) = training.step.optimizer.orthogonalize([matrix], torch.float32)
    assert torch.linalg.matrix_norm(update - u @ v, 2) < 0.15
    (tall,) = training.step.optimizer.orthogonalize([matrix[:, :6]], torch.float32)
    assert (torch.linalg.svdvals(tall) / 2 - 1).abs().max() < 0.15  # √(24 / 6)


def test_normuon_evens_out_rows_and_keeps_the_norm(bench: dict[str, Any], folder: Path) -> None:
    (training, _), (plain, _) = (built(bench, folder, part) for part in ("normuon", "baseline"))
    matrix = torch.randn(24, 6)
    (even,), (update,) = (each.step.optimizer.orthogonalize([matrix], torch.float32) for each in (training, plain))
    assert even.norm().item() == pytest.approx(update.norm().item(), rel=1e-5)
    assert even.norm(dim=1).std() < 1e-4 < update.norm(dim=1).std()


def test_average_is_the_mean_of_the_last_fifth(bench: dict[str, Any], folder: Path) -> None:
    training, patch = built(bench, folder, "average", 10)
    weights = []
    for number in range(10):
        training.step(number)
        weights.append(training.step.model.head.weight.detach().clone())
    patch.finish()
    torch.testing.assert_close(training.step.model.head.weight.detach(), (weights[8] + weights[9]) / 2)


def test_growing_parts_read_the_windows_of_the_recipe(bench: dict[str, Any], folder: Path) -> None:
    (batch, _), (context, _), (plain, _) = (
        built(bench, folder, part) for part in ("batch_grows", "context_grows", "baseline")
    )
    expected = [plain.step.batches(number)[0].inputs for number in range(4)]
    grown = [batch.step.batches(number)[0].inputs for number in range(4)]
    assert [len(inputs) for inputs in grown] == [2, 2, 4, 4]
    assert torch.equal(torch.cat(grown), torch.cat(expected)[:12])
    shapes = [tuple(context.step.batches(number)[0].inputs.shape) for number in range(4)]
    assert shapes == [(8, 8), (8, 8), (4, 16), (4, 16)]
    first = context.step.batches(0)[0]
    assert torch.equal(first.inputs.flatten(), expected[0].flatten())
    assert torch.equal(first.targets[:, :-1], first.inputs[:, 1:])


def test_trigram_rows_depend_on_three_tokens(bench: dict[str, Any]) -> None:
    row = bench["ablation_model"].Trigrams().row
    ids = torch.tensor([[7, 4095, 3, 5], [7, 4095, 3, 5], [8, 4095, 3, 5], [7, 4094, 3, 5]])
    rows = row(ids)
    assert torch.equal(rows[0], rows[1])
    assert len(set(rows[[0, 2, 3], 2].tolist())) == 3
    assert rows[0, 3] == rows[2, 3]
    assert len(row(torch.randint(4096, (1, 50_000))).unique()) > 30_000  # of 65,536 rows


def test_no_window_of_documents_crosses_into_the_next(bench: dict[str, Any], folder: Path) -> None:
    (training, _), (plain, _) = (built(bench, folder, part) for part in ("documents", "baseline"))
    starts = training.split.document_starts()
    end_of_text = int(training.split.read(int(starts[1]) - 1, 1)[0])
    assert len(starts) == 4

    def predicts_from_the_end(batch: Any) -> bool:
        return bool(((batch.inputs == end_of_text) & (batch.targets >= 0)).any())

    epoch = len(training.split) // (4 * 16) + 2
    assert not any(predicts_from_the_end(training.step.batches(number)[0]) for number in range(epoch))
    assert any(predicts_from_the_end(plain.step.batches(number)[0]) for number in range(epoch))
    positions = training.step.batches(0)[0].extra["positions"]
    assert (positions[:, 0] == 0).all()
    assert training.step(0).tokens > 0


def test_seconds_are_in_units_of_the_reference(bench: dict[str, Any], folder: Path) -> None:
    known = {"step_seconds": 1.0, "fit_seconds": 2.0}
    row = bench["ablation_run"].run(spec(folder, "baseline", seconds=7.5, reference=known))
    assert row["steps"] == 5
    assert row["step_seconds"] == pytest.approx(1.0)
    assert row["fit_seconds"] == 2.0


def test_finished_rows_are_not_run_again(
    bench: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, file = bench["ablations"], folder / "rows.csv"
    given = [f"{section}.{key}={value}" for section, keys in TINY.items() for key, value in keys.items()]
    words = ["--steps", "2", "--seeds", "1", "--eval-tokens", "400", "--csv", str(file), "--set", *given]
    monkeypatch.setattr("sys.argv", ["ablations.py", str(folder / "text"), "--parts", "tied", *words])
    module.main()
    shown = capsys.readouterr().out
    rows = module.read(file)
    assert [row["part"] for row in rows] == ["baseline", "tied"]
    in_process = bench["ablation_run"].run(spec(folder, "tied"))
    assert float(rows[1]["bits_per_byte"]) == pytest.approx(in_process["bits_per_byte"], rel=1e-4)

    def refuse(_: Any) -> None:
        raise AssertionError("it ran again")

    monkeypatch.setattr(module, "in_process", refuse)
    module.main()
    again = capsys.readouterr().out
    assert again.strip() in shown
    assert "| tied | " in again


def row(part: str, text: str, seed: int, bits: float, steps: int = 100) -> dict[str, str]:
    group = {"size": "2x128", "set": "", "budget": "60 s", "eval_tokens": "1000"}
    found = {"bits_per_byte": str(bits), "steps": str(steps), "step_seconds": str(50 / steps)}
    return {**group, "part": part, "text": text, "seed": str(seed), **found}


def test_table_of_differences(bench: dict[str, Any]) -> None:
    rows = [row("baseline", text, seed, 1.5) for text in ("a", "b") for seed in (1, 2)]
    rows += [row("worse", "a", 1, 1.6), row("worse", "c", 1, 9.0)]  # c has no baseline
    rows += [row("better", "a", 1, 1.40, 80), row("better", "a", 2, 1.42, 80), row("better", "b", 1, 1.44, 80)]
    lines = bench["ablations"].table(rows).splitlines()
    error = np.std([0.10, 0.08, 0.06], ddof=1) / 3**0.5
    assert lines[-2] == f"| better | -0.0800 ± {error:.4f} | -0.0900 | -0.0600 |  | 3 | 0.80 | 1.25 |"
    assert lines[-1] == "| worse | +0.1000 | +0.1000 |  |  | 1 | 1.00 | 1.00 |"
    assert lines[-3] == "| baseline (bits per byte) | | 1.5000 | 1.5000 |  | | | |"


def test_settings_of_a_size(bench: dict[str, Any]) -> None:
    assert bench["ablations"].layer("2x192", ["train.batch=16"]) == {
        "model": {"n_layer": 2, "n_embd": 192, "n_head": 3},
        "train": {"batch": "16"},
    }
