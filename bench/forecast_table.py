"""Make the table of runs that `fledge plan` forecasts a loss from: src/fledge/planning/runs.csv.

    python bench/forecast_table.py TEXTS [--runs DIR] [--table FILE] [--collect]

Each file and each folder in TEXTS is one text; `python`, the embedded corpus, is always one more. Every text is trained
on with the preset `text` in several sizes and lengths, with and without a bigram table, on some with `demo` too. The
loss does not depend on the load of the machine. Runs that exist are not made again, and rows of the table stay if their
runs are not here; --collect makes no run. In the end it prints how well the table forecasts each text from all others.

The texts of the table that is in the repository:

    books        19 novels and essays, 9 MB      github.com/mlschmitt/classic-books-markdown
    python       standard library of 3.11        the corpus `python`
    redis        C, 9 MB                         github.com/redis/redis
    russian      Russian novels, 9 MB            github.com/nevmenandr/word2vec-russian-novels
    web          blog posts, reviews, 10 MB      github.com/18F/18f.gsa.gov; movie_reviews, webtext of nltk/nltk_data

books, russian and web are cut into pieces of 20 KB, which are shuffled.
"""

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from fledge.datasets.shards import open_dataset
from fledge.planning.corpus_stats import dataset_stats, text_characters
from fledge.planning.loss_forecast import (
    VARIANTS,
    final_bits_per_byte,
    forecast_loss,
    parse_table,
    recipe_of,
    run_point,
)
from fledge.planning.recipe import ngram_steps, vocabulary_for
from fledge.runs.run_folder import RunFolder, list_runs
from fledge.settings.pipeline import resolve, validated
from fledge.tracking.sinks.csv import read_metrics

ROOT = Path(__file__).parents[1]
# (recipe, settings): the most informative ones first
GRID = (
    ("text", {"n_layer": 1, "n_embd": 128, "steps": 120}),
    ("text", {"n_layer": 2, "n_embd": 128, "steps": 400}),
    ("text, portable", {"n_layer": 1, "n_embd": 128, "steps": 120}),
    ("text, portable", {"n_layer": 2, "n_embd": 128, "steps": 400}),
    ("text", {"n_layer": 2, "n_embd": 64, "steps": 60}),
    ("text", {"n_layer": 2, "n_embd": 192, "steps": 350}),
    ("demo", {"n_layer": 4, "n_embd": 256, "steps": 150}),
    ("demo", {"n_layer": 4, "n_embd": 256, "steps": 400}),
)
COLUMNS = (
    *("text", "recipe", "entropy", "vocab_size", "parameters", "tokens", "train_tokens", "bits_per_byte"),
    *("val_tokens", "bytes_per_token", "n_layer", "n_embd", "context", "batch", "steps", "dtype", "torch", "commit"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("--runs", type=Path, default=Path("forecast-runs"))
    parser.add_argument("--table", type=Path, default=ROOT / "src/fledge/planning/runs.csv")
    parser.add_argument("--collect", action="store_true")
    args = parser.parse_args()
    if not args.collect:
        texts = {"python": "python", **{path.stem: str(path.resolve()) for path in sorted(args.texts.iterdir())}}
        for recipe, values in GRID:
            for name, corpus in texts.items():
                train(name, corpus, recipe, values, args.runs)
    known = list(csv.DictReader(args.table.read_text().splitlines())) if args.table.exists() else []
    write(args.table, [*known, *rows(args.runs)])
    check(args.table)


def train(name: str, corpus: str, recipe: str, values: dict[str, int], runs: Path) -> None:
    width, steps = values["n_embd"], values["steps"]
    run = f"{name}-{recipe.replace(', ', '-').replace(' ', '-')}-{values['n_layer']}x{width}-{steps}"
    if (runs / run).exists():
        return
    preset, variant = VARIANTS.get(recipe, (recipe, {}))
    model = {**variant.get("model", {}), "n_layer": values["n_layer"], "n_embd": width, "n_head": width // 64}
    settings = {f"model.{key}": "null" if value is None else value for key, value in model.items()}
    settings |= {"train.steps": steps, "train.batch": 8 if preset == "demo" else 32, "train.eval_every": steps}
    settings |= {"train.sample_every": 0, "data.val": 0.05}
    if preset == "text":
        characters = text_characters(resolve(preset, {"data": {"corpus": corpus}}))
        settings["tokenizer.vocab_size"] = vocabulary_for(characters)
        settings["train.ngram_steps"] = ngram_steps(steps * 32 * 128)
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "fledge", "train", preset, "--run", run, "--runs", str(runs)]
    print(run, flush=True)
    subprocess.run([*command, "--data.corpus", corpus, *words, "--json"], check=True, stdout=subprocess.DEVNULL)


def rows(runs: Path) -> Iterator[dict[str, Any]]:
    for run in list_runs(runs):
        settings, found = validated(run.config()), final_bits_per_byte(run, read_metrics(run.folder))
        if found is None or settings.data.path is None:
            continue
        model, train = settings.model, settings.train
        corpus = dataset_stats(settings, open_dataset(Path(settings.data.path)))
        point = run_point(settings, corpus)
        if point is None:
            continue
        yield {
            **{key: getattr(point, key) for key in ("parameters", "tokens", "train_tokens", "vocab_size")},
            "text": Path(str(settings.data.corpus)).stem,
            "recipe": recipe_of(settings, ("text", "demo", *VARIANTS)),
            "entropy": f"{point.entropy:.4f}",
            "bits_per_byte": f"{found:.4f}",
            "val_tokens": corpus.val_tokens,
            "bytes_per_token": f"{corpus.bytes_per_token:.3f}",
            **{key: getattr(model, key) for key in ("n_layer", "n_embd", "context")},
            **{key: getattr(train, key) for key in ("batch", "steps", "dtype")},
            **versions(run),
        }


def versions(run: RunFolder) -> dict[str, str]:
    metadata = run.metadata()
    return {"torch": str(metadata.get("torch") or ""), "commit": str(metadata.get("commit") or "")[:8]}


def write(table: Path, found: list[dict[str, Any]]) -> None:
    """Of two rows of the same run, the later."""
    keys = ("text", "recipe", "parameters", "tokens")
    found = list({tuple(str(row[key]) for key in keys): row for row in found}.values())
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            sorted(found, key=lambda row: (row["recipe"], row["text"], int(row["parameters"]), float(row["tokens"])))
        )
    print(f"{len(found)} runs in {table}")


def check(table: Path) -> None:
    """Forecast the runs of each text from the runs of all other texts."""
    points = parse_table(table.read_text())
    inside, widths = [], []
    for point in points:
        others = [other for other in points if other.text != point.text]
        found = forecast_loss(replace(point, bits_per_byte=float("nan")), others)
        label = f"{point.text:<14}{point.recipe:<18}{point.parameters:>9,} parameters{point.tokens:>12,.0f} tokens"
        if found is None:
            print(f"{label}   measured {point.bits_per_byte:.3f}   not forecast")
            continue
        inside.append(point.bits_per_byte in found)
        widths.append(found.high / found.expected - 1)
        error = 100 * (found.expected / point.bits_per_byte - 1)
        print(
            f"{label}   measured {point.bits_per_byte:.3f}   forecast {found.expected:.3f} ({error:+.1f} %)"
            f"   {found.low:.3f} to {found.high:.3f}{'' if inside[-1] else '   OUTSIDE'}"
        )
    if inside:
        print(f"inside: {sum(inside)} of {len(inside)}; half-width {100 * mean(widths):.1f} % on average")


if __name__ == "__main__":
    main()
