"""smol-GPT's evaluation: the functions of its eval.py beside `fledge eval --metrics smol-gpt`, on the same weights.

    SMOL_GPT=DIR python bench/smol_gpt_eval.py [--layers 6 --width 192 --heads 6] [--batches 20] [--seeds 4]

DIR is a checkout of Avenger-py/smol-GPT. A model of its class is trained for some steps on its published test text by
its own batches, saved as its train.py saves it, and imported. Then its functions evaluate their model and ours the
import, with the same seeds: the first table shows both and how far apart they are. The second shows how far estimates
with other seeds are from theirs, in standard errors. Needs scikit-learn, and GPT-2's files in FLEDGE_TEST_DATA/gpt2.
"""

import argparse
import ast
import importlib.util
import math
import os
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, precision_score, recall_score

from common import machine, versions
from fledge.recipes.estimate import EstimateResult, estimate
from fledge.recipes.import_model import import_model
from fledge.tokenizers.base import save_tokenizer
from fledge.tokenizers.gpt2 import load_gpt2

NAMES = ("loss", "perplexity", "precision", "recall", "f1", "accuracy")
WITHIN = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 2), ("width", 48), ("heads", 3), ("steps", 20), ("batches", 8), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-size", type=int, default=4)
    args = parser.parse_args()
    checkout = Path(os.environ["SMOL_GPT"])
    print(machine(), "|", versions("torch", "scikit-learn"), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FLEDGE_CACHE"] = str(folder / "cache")
        ids = prepare(checkout, folder)
        config = make_config(checkout, args)
        theirs = functions_of(checkout, config)
        model = trained(checkout, theirs, config, ids, args.steps)
        torch.save({"model": model.state_dict(), "config": config}, folder / "ckpt.pt")
        import_model(str(folder / "ckpt.pt"), str(folder / "smol"), tokenizer=str(folder / "tokenizer.json"))
        size = sum(each.numel() for each in model.parameters())
        drawn = f"{args.batches} batches of {args.batch_size} windows from {len(ids):,} tokens"
        print(f"{size:,} parameters, {args.steps} steps; {drawn}", flush=True)
        pairs = []
        for seed in range(args.seeds):
            expected = their_numbers(theirs, model, ids, args.batches, seed)
            found = estimate(
                str(folder / "smol"),
                "test",
                definition="smol-gpt",
                batches=args.batches,
                batch_size=args.batch_size,
                seed=seed,
                data=str(folder / "data"),
                device="cpu",
            )
            pairs.append((expected, found))
        show(pairs)


def prepare(checkout: Path, folder: Path) -> torch.Tensor:
    """The published test text as ids, and as a dataset of .bin files."""
    tokenizer = load_gpt2([Path(os.environ["FLEDGE_TEST_DATA"]) / "gpt2"])
    save_tokenizer(tokenizer, folder / "tokenizer.json")
    text = (checkout / "wikitext103" / "test.txt").read_text(encoding="utf-8")  # as it reads: carriage returns go
    ids = tokenizer.encode(text)
    (folder / "data").mkdir()
    for split in ("train", "test"):
        np.asarray(ids, dtype=np.uint16).tofile(folder / "data" / f"{split}.bin")
    return torch.tensor(np.asarray(ids, dtype=np.int64))


def make_config(checkout: Path, args: argparse.Namespace) -> types.SimpleNamespace:
    config: types.SimpleNamespace = load_module(checkout / "config.py").config
    config.N_layer, config.N_embd, config.N_head = args.layers, args.width, args.heads
    config.batch_size, config.device = args.batch_size, "cpu"
    return config


def load_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"smol_gpt_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"'{path}' is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions_of(checkout: Path, config: types.SimpleNamespace) -> dict[str, Any]:
    """The functions of its eval.py and utils.py, without what these do when they are imported."""
    names: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "config": config,
        "tqdm": iter,
        **{each.__name__: each for each in (precision_score, recall_score, f1_score)},
    }
    for file in ("utils.py", "eval.py"):
        tree = ast.parse((checkout / file).read_text(encoding="utf-8"))
        tree.body = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
        exec(compile(tree, file, "exec"), names)  # noqa: S102
    return names


def trained(
    checkout: Path, theirs: dict[str, Any], config: types.SimpleNamespace, ids: torch.Tensor, steps: int
) -> torch.nn.Module:
    torch.manual_seed(1)
    model: torch.nn.Module = load_module(checkout / "model.py").GPT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    for _ in range(steps):
        _, loss = model(*theirs["generate_batches"](ids, config))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def their_numbers(
    theirs: dict[str, Any], model: torch.nn.Module, ids: torch.Tensor, count: int, seed: int
) -> dict[str, float]:
    torch.manual_seed(seed)
    loss = theirs["get_test_loss"](model, ids, count)
    scores = theirs["get_precision_recall_f1"](model, ids, count)
    accuracy = theirs["get_accuracy"](model, ids, count)
    values = (loss, theirs["perplexity"](loss), *scores, accuracy)
    return dict(zip(NAMES, map(float, values), strict=True))


def show(pairs: list[tuple[dict[str, float], EstimateResult]]) -> None:
    print(
        f"\n{'seed 0':<12} {'theirs':>12} {'ours':>12} {'stderr':>10}   largest relative difference, {len(pairs)} seeds"
    )
    worst = 0.0
    for name in NAMES:
        away = max(abs(found.metrics[name].mean - expected[name]) / expected[name] for expected, found in pairs)
        worst = max(worst, away)
        expected, found = pairs[0]
        each = found.metrics[name]
        print(f"{name:<12} {expected[name]:12.5f} {each.mean:12.5f} {each.stderr or 0:10.5f}   {away:.1e}")
    if len(pairs) > 1:
        print("\nother draws: theirs with seed n + 1, ours with seed n; in standard errors of the difference")
    for name in NAMES if len(pairs) > 1 else ():
        errors = []
        for (expected, _), (_, found) in zip([*pairs[1:], pairs[0]], pairs, strict=True):
            each = found.metrics[name]
            errors.append((each.mean - expected[name]) / (math.sqrt(2) * (each.stderr or math.nan)))
        print(f"{name:<12} {'  '.join(f'{each:+.2f}' for each in errors)}")
    if not worst < WITHIN:
        raise SystemExit(f"the same draws differ by {worst:.1e}")


if __name__ == "__main__":
    main()
