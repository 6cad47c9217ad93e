"""What pays: the recipe of preset `text` with one part changed, at equal CPU seconds, on several texts and seeds.

    python bench/ablations.py TEXT... [--parts NAME...] [--seeds 1 2 3] [--seconds CPU_SECONDS] [--csv FILE]
    python bench/ablations.py --table FILE.csv          the table of rows that are there, in Markdown
    python bench/ablations.py --list                    the parts: what each is, and where the idea is from

Every run is a process with one thread, without torch.compile. It has --seconds of CPU time (of all its threads, not of
the clock) for the fit to n-grams and its updates; how many fit in is computed from the time of an update after a
warm-up, so that a part pays for what it costs. That time is measured in turns with the baseline's, and counted in units
of it: what other programs slow down does not change the number of updates. Loading, measuring and evaluation are not
counted. --steps: as many updates for every part instead, which compares quality without cost.

Bits per byte are those of the weights after the last update, by fledge's own evaluation, on --eval-tokens from all over
the validation split, the same for every part. The difference to the baseline is taken text by text and seed by seed;
its standard error is that of their mean.

Rows go to --csv as they come, and what it holds is not run again: it can be stopped and continued, and texts, parts and
seeds can be added. A row belongs to the name of a text, size, settings and budget; it is for the user to see that a
name stays the same text and that fledge has not changed. --set changes the recipe for all parts, baseline included.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from common import commit, machine

GROUP = ("size", "set", "budget", "eval_tokens")  # what rows of one table have in common
KEY = ("text", *GROUP, "part", "seed")
FIGURES = ("bits_per_byte", "loss", "train_loss", "steps", "step_seconds", "fit_seconds", "cpu_seconds", "parameters")
COLUMNS = (*KEY, *FIGURES, "dtype", "machine", "commit")
BASELINE = "baseline"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
HEAD_WIDTH = 64
Row = dict[str, Any]


def main() -> None:
    args = parse()
    if args.list:
        print(*(f"{name:<22}{part.about}" for name, part in known_parts().items()), sep="\n")
        return
    if args.table:
        print(table(read(args.table)))
        return
    if unknown := set(args.parts or ()) - set(known_parts()):
        raise SystemExit(f"unknown parts: {', '.join(sorted(unknown))}; --list shows them")
    missing = [text for text in args.texts if not text.exists()]
    if missing or not args.texts:
        raise SystemExit(f"no such text: {', '.join(map(str, missing))}" if missing else "name a text, or --table FILE")
    rows, failures = read(args.csv) if args.csv else [], 0
    for seed in args.seeds:
        for text in args.texts:
            for part in dict.fromkeys([BASELINE, *(args.parts or known_parts())]):
                done = run_once(text.resolve(), part, seed, args, rows)
                failures += not done
                if part == BASELINE and not done:
                    break  # nothing to compare the others with
    print("\n" + table(rows))
    if failures:
        raise SystemExit(f"{failures} runs failed")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", type=Path, metavar="TEXT")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="the baseline is always run, too; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=180.0, metavar="CPU_SECONDS")
    length.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--size", default="2x128", metavar="BLOCKSxWIDTH")
    parser.add_argument("--set", nargs="+", default=[], metavar="section.key=value", help="train.batch=16")
    parser.add_argument("--eval-tokens", type=int, default=150_000, metavar="N")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--table", type=Path, metavar="FILE")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


def known_parts() -> dict[str, Any]:
    from ablation_parts import PARTS  # imports torch, which a table does not need

    return PARTS


def read(file: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def append(file: Path, row: Row) -> None:
    """At once on the disk: a later run that is stopped does not lose it."""
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def run_once(text: Path, part: str, seed: int, args: argparse.Namespace, rows: list[Row]) -> bool:
    """Run and add a row, unless it is there. False where it failed."""
    budget = f"{args.steps} steps" if args.steps else f"{args.seconds:g} s"
    group = {"size": args.size, "set": " ".join(args.set), "budget": budget, "eval_tokens": args.eval_tokens}
    key = {name: str(value) for name, value in ({"text": text.stem, **group, "part": part, "seed": seed}).items()}
    if any(all(row[name] == key[name] for name in KEY) for row in rows):
        return True
    spec = {"text": str(text), "settings": layer(args.size, args.set), "part": part, "seed": seed}
    spec["eval_tokens"] = args.eval_tokens
    spec.update({"steps": args.steps} if args.steps else {"seconds": args.seconds, "reference": reference(rows, key)})
    label = f"{text.stem:<14}{part:<22}seed {seed}   "
    try:
        found = in_process(spec)
    except RuntimeError as failure:
        print(f"{label}FAILED: {failure}", flush=True)
        return False
    if "skipped" in found:
        print(f"{label}left out: {found['skipped']}", flush=True)
        return True
    figures = {name: "" if found[name] is None else f"{found[name]:.6g}" for name in FIGURES}
    rows.append({**key, **figures, "dtype": found["dtype"], "machine": machine(), "commit": commit()})
    if args.csv:
        append(args.csv, rows[-1])
    print(f"{label}{found['bits_per_byte']:.4f} bits per byte   {found['steps']:,} steps", flush=True)
    return True


def layer(size: str, words: list[str]) -> dict[str, dict[str, Any]]:
    """ "2x128", ["train.batch=16"] → the settings above those of the preset"""
    blocks, width = map(int, size.split("x"))
    heads = max(1, width // HEAD_WIDTH)
    result: dict[str, dict[str, Any]] = {"model": {"n_layer": blocks, "n_embd": width, "n_head": heads}}
    for word in words:
        name, _, value = word.partition("=")
        section, _, setting = name.partition(".")
        result.setdefault(section, {})[setting] = value
    return result


def reference(rows: list[Row], key: Row) -> Row | None:
    """CPU seconds of step and fit of the first baseline on this text: the unit of all later runs."""
    same = ("text", *GROUP)
    found = [row for row in rows if row["part"] == BASELINE and all(row[name] == key[name] for name in same)]
    return {name: float(found[0][name]) for name in ("step_seconds", "fit_seconds")} if found else None


def in_process(spec: Row) -> Row:
    """What ablation_run.py prints. RuntimeError where it fails."""
    words = [sys.executable, str(Path(__file__).with_name("ablation_run.py")), json.dumps(spec)]
    done = subprocess.run(words, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[Row]) -> str:
    """Markdown: a table for each size, settings and budget."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in GROUP), []).append(row)
    return "\n\n".join(table_of(group, found) for group, found in groups.items())


def table_of(group: tuple[str, ...], rows: list[Row]) -> str:
    """Parts by their mean difference, best first. A text and seed counts where its baseline was run."""
    size, settings, budget, eval_tokens = group
    bases = {(row["text"], row["seed"]): row for row in rows if row["part"] == BASELINE}
    texts = list(dict.fromkeys(row["text"] for row in rows))
    parts: dict[str, list[Row]] = {}
    for row in rows:
        if (row["text"], row["seed"]) in bases:
            parts.setdefault(row["part"], []).append(row)
    rest = f", {settings}" if settings else ""
    lines = [
        f"{size}{rest}, {budget}, {int(eval_tokens):,} tokens of validation. Differences in bits per byte, ± standard"
        " error; below 0 is better. Steps and seconds of a step are relative to the baseline.",
        "",
        f"| part | difference | {' | '.join(texts)} | runs | steps | step |",
        f"|---|{'---|' * (4 + len(texts))}",
    ]
    lines += [f"| {BASELINE} (bits per byte) | | {per_text(texts, parts.get(BASELINE, []), None)} | | | |"]
    changed = [(differences(found, bases), name, found) for name, found in parts.items() if name != BASELINE]
    for values, name, found in sorted(changed, key=lambda each: mean(each[0])):
        costs = f"{ratio(found, bases, 'steps')} | {ratio(found, bases, 'step_seconds')}"
        lines.append(f"| {name} | {interval(values)} | {per_text(texts, found, bases)} | {len(values)} | {costs} |")
    return "\n".join(lines)


def differences(rows: list[Row], bases: dict[tuple[str, str], Row]) -> list[float]:
    pairs = [(row, bases[row["text"], row["seed"]]) for row in rows]
    return [float(row["bits_per_byte"]) - float(base["bits_per_byte"]) for row, base in pairs]


def interval(values: list[float]) -> str:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return f"{mean(values):+.4f}" + ("" if error is None else f" ± {error:.4f}")


def per_text(texts: list[str], rows: list[Row], bases: dict[tuple[str, str], Row] | None) -> str:
    """The mean over the seeds of each text: of the differences, or of the bits per byte themselves."""
    cells = []
    for text in texts:
        found = [row for row in rows if row["text"] == text]
        if bases is None:
            cells.append(f"{mean(float(row['bits_per_byte']) for row in found):.4f}" if found else "")
        else:
            cells.append(f"{mean(differences(found, bases)):+.4f}" if found else "")
    return " | ".join(cells)


def ratio(rows: list[Row], bases: dict[tuple[str, str], Row], name: str) -> str:
    """Mean ratio to the baseline; nothing where it was not measured."""
    pairs = [(row[name], bases[row["text"], row["seed"]][name]) for row in rows]
    known = [float(value) / float(base) for value, base in pairs if value and base]
    return f"{mean(known):.2f}" if known else ""


if __name__ == "__main__":
    main()
