"""Bits per byte that N minutes buy: `fledge train TEXT --minutes N` against nanochat and nanoGPT, on a CPU.

    python bench/minutes.py TEXT... --minutes 4 [--seeds 1 2 3] [--nanochat DIR] [--nanogpt DIR] [--json FILE]

Ours is the command, in a process and with a cache of its own: the seconds are those of the whole command, with start,
preparing, measuring, compiling, evaluation and saving. Bits per byte are those of the weights after the last step, on
the whole validation split, by `fledge eval`. What the run itself logged must agree; a very short run logs that of a
sample only.

A peer has the same minutes for its steps alone: loading, tokenizing, a few steps to measure their time, and evaluation
are not counted. Peers get the same training and validation text, byte for byte (checked), in BPE tokens learned from
the training part, random windows, all cores, and the precision that fledge uses on this processor. They are evaluated
like ours: every token of the split but the first, once, in windows of the model's own context, side by side.
--compile: peers use torch.compile, as nanochat's script does on every device, and compiling is not counted; it made a
step of nanochat at depth 2 a third shorter on one core.

nanochat   its model, optimizer and rules of scripts/base_train.py for width, heads, rates, weight decay and schedules,
           at each of --depths. As in its example for a CPU: heads of 64, full attention in all layers, and a batch
           that is given, --nanochat-batch windows of 256 tokens: what it chooses by itself, 2^17 tokens, would leave
           a dozen updates. Of the batch its rates follow. Its warm-up is at most a tenth of the run, which helps it.
           Without --compile its fused updates run as plain PyTorch.
nanoGPT    its model with the settings of train_shakespeare_char.py, without dropout, at each of --shapes:
           BLOCKSxWIDTH:RATE:WINDOWSxCONTEXT.

The best of each counts. Peers run with the first of the seeds only, or with --peer-seeds of them. Everything runs in
turns, ours and a peer. --json continues a FILE: what it holds of the same text, minutes, machine and commit is not
measured again. Short tries: --minutes 0.5.
"""

import argparse
import hashlib
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from common import commit, machine, run, timed, versions

WANTED = {"nanochat": 15, "nanogpt": 20}  # per cent fewer bits per byte than the best of each
NANOCHAT_CONTEXT, HEAD_DIM = 256, 64
SHAPES = ["4x128:2e-3:16x128", "4x128:2e-3:32x128", "4x256:1e-3:16x128"]
AGREE = 2e-3  # bits per byte that `fledge eval` may differ by: another order of additions in bf16
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # before fledge is imported, which changes how OpenMP waits
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--peer-seeds", type=int, default=1, metavar="N")
    parser.add_argument("--nanochat", type=Path, metavar="DIR", help="a checkout")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--nanochat-batch", type=int, nargs="+", default=[8], metavar="WINDOWS")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--vocab", type=int, default=4096, help="tokens of the peers")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the peers")
    parser.add_argument("--compile", action="store_true", help="the peers, too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    about = {"machine": machine(), "versions": versions("torch"), "commit": commit()}
    print(*about.values(), "load", *(f"{load:.1f}" for load in os.getloadavg()), sep=" | ", flush=True)
    results = Results(about, args.json)
    for text in args.texts:
        measure(text.resolve(), args, results)
    for text in args.texts:
        report(text.name, args.minutes, results.current)
    if any("failed" in row for row in results.current):
        raise SystemExit(1)


class Results:
    """All rows, kept in a file as they come; those of this process run, measured or found there, are current."""

    def __init__(self, about: dict[str, str], file: Path | None) -> None:
        self.about, self.file = about, file
        self.rows: list[Row] = json.loads(file.read_text()) if file and file.exists() else []
        self.current: list[Row] = []

    def add(self, key: Row, find: Callable[[], Row]) -> None:
        """What `find` measures, unless it was measured already. What fails is reported, and the rest goes on."""
        key = {**key, **self.about}
        if key["peer"]:  # does not depend on fledge
            del key["commit"]
        known = [row for row in self.rows if "failed" not in row and all(row.get(name) == key[name] for name in key)]
        if known and not key.get("commit", "").endswith("-dirty"):
            self.current.append(known[-1])
            return
        try:
            found = find()
        except (SystemExit, Exception) as failure:
            found = {"failed": f"{type(failure).__name__}: {failure}"}
        self.current.append({**key, **found})
        self.rows.append(self.current[-1])
        print(describe(self.current[-1]), flush=True)
        if self.file:
            self.file.write_text(json.dumps(self.rows, indent=1))


def measure(text: Path, args: argparse.Namespace, results: Results) -> None:
    """Ours and the peers in turns."""
    key = {"text": text.name, "sha256": hashlib.sha256(text.read_bytes()).hexdigest(), "minutes": args.minutes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = folder / "dataset"
        words = ["--tokenizer", "bpe", "--tokenizer.vocab_size", str(args.vocab), "--out", str(dataset)]
        fledge(folder, "prepare", str(text), *words)
        digest = text_of_split(dataset)
        turns = [("fledge train", {}, seed) for seed in args.seeds]
        others = [(name, spec, seed) for seed in args.seeds[: args.peer_seeds] for name, spec in peers(args).items()]
        for label, spec, seed in interleaved(turns, others):
            row = {**key, "name": label, "peer": spec, "seed": seed}
            if spec:
                found = {**spec, "checkout": checkout_of(args, spec), "dataset": str(dataset), "seed": seed}
                results.add(row, lambda found=found: train_peer(found, folder))
            else:
                results.add(row, lambda seed=seed: train_ours(text, args.minutes, seed, digest))


def interleaved(*lists: list[Any]) -> list[Any]:
    """interleaved([1, 2], [7, 8, 9]) → [1, 7, 2, 8, 9]"""
    rows = itertools.zip_longest(*lists)
    return [each for row in rows for each in row if each is not None]


def peers(args: argparse.Namespace) -> dict[str, Row]:
    """What minutes_peers.py is given, but for the seed and what is on this machine only."""
    common = {"seconds_of_steps": 60 * args.minutes, "vocab": args.vocab, "dtype": args.dtype, "compile": args.compile}
    found: dict[str, Row] = {}
    how = ", compiled" if args.compile else ""
    for depth, batch in itertools.product(args.depths if args.nanochat else (), args.nanochat_batch):
        shape = {"depth": depth, "batch": batch, "context": NANOCHAT_CONTEXT, "head_dim": HEAD_DIM}
        name = f"nanochat, depth {depth}, {batch} × {NANOCHAT_CONTEXT}{how}"
        found[name] = {"library": "nanochat", **shape, **common}
    for words in args.shapes if args.nanogpt else ():
        model, rate, batch = words.split(":")
        (depth, width), (rows, context) = (map(int, pair.split("x")) for pair in (model, batch))
        shape = {"depth": depth, "width": width, "heads": max(4, width // 64), "batch": rows, "context": context}
        name = f"nanoGPT, {depth} × {width}, {rate}, {rows} × {context}{how}"
        found[name] = {"library": "nanogpt", **shape, "rate": float(rate), **common}
    return found


def checkout_of(args: argparse.Namespace, spec: Row) -> str:
    return str((args.nanochat if spec["library"] == "nanochat" else args.nanogpt).resolve())


def fledge(folder: Path, *words: str) -> str:
    return run([sys.executable, "-m", "fledge", *words], folder, ENVIRONMENT)


def train_ours(text: Path, minutes: float, seed: int, digest: str) -> Row:
    """The command as a user types it, with an empty cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["train", str(text), "--minutes", f"{minutes:g}", "--train.seed", str(seed)]
        words += ["--run", "ours", "--runs", str(folder / "runs")]
        seconds = timed(lambda: fledge(folder, *words))
        evaluated = json.loads(fledge(folder, "eval", "ours@latest", "--runs", str(folder / "runs"), "--json"))
        return {"seconds": seconds, **read_run(folder / "runs" / "ours", evaluated, digest)}


def read_run(folder: Path, evaluated: Row, digest: str) -> Row:
    """Figures of a finished run. Exit unless it was evaluated on the same text as the peers, and twice alike."""
    from fledge.model.flops import parameter_count  # fledge changes how OpenMP waits: the commands start without it
    from fledge.runs.run_folder import open_run
    from fledge.settings.pipeline import validated
    from fledge.tracking.sinks.csv import read_metrics

    finished = open_run(folder.name, folder.parent)
    settings, metrics = validated(finished.config()), read_metrics(folder)
    group = "val" if metrics["val/fraction"][-1] == 1 else "val_whole"
    logged, untrained = metrics[f"{group}/bits_per_byte"][-1], metrics["val/bits_per_byte"][0]
    bits, shape = evaluated["bits_per_byte"], settings.model
    if text_of_split(Path(finished.metadata()["dataset"])) != digest:
        raise SystemExit("it was evaluated on another text than its peers")
    if abs(logged - bits) > AGREE:
        raise SystemExit(f"it logged {logged} bits per byte, and `fledge eval` measures {bits}")
    if not bits < untrained:
        raise SystemExit(f"it does not learn: {untrained:.3f} → {bits:.3f} bits per byte")
    return {
        "bits_per_byte": bits,
        "logged_bits_per_byte": logged if math.isfinite(logged) else None,
        "steps": metrics.last_step,
        "parameters": parameter_count(shape),
        "shape": f"{shape.n_layer} × {shape.n_embd}, {settings.train.batch} × {shape.context}",
        "vocabulary": shape.vocab_size,
        "bigram_rows": shape.bigram_rows,
    }


def text_of_split(dataset: Path) -> str:
    """A hash of the bytes that the validation split stands for, whatever its tokens are."""
    from fledge.datasets.shards import open_dataset

    opened = open_dataset(dataset)
    split, tokens = opened.split("val"), [opened.tokenizer.id_to_bytes(i) for i in range(opened.tokenizer.vocab_size)]
    return hashlib.sha256(b"".join(tokens[i] for i in split.read(0, len(split)).tolist())).hexdigest()


def train_peer(spec: Row, folder: Path) -> Row:
    environment = ENVIRONMENT if spec["compile"] else {**ENVIRONMENT, "TORCHDYNAMO_DISABLE": "1"}
    script = Path(__file__).with_name("minutes_peers.py")
    return json.loads(run([sys.executable, str(script), json.dumps(spec)], folder, environment))


def describe(row: Row) -> str:
    where = f"{row['text']:<14} {row['name']:<38} seed {row['seed']}"
    if "failed" in row:
        return f"{where}   FAILED: {row['failed']}"
    figures = f"{row['bits_per_byte']:.4f} bits per byte   {row['steps']:>6,} steps   {row['seconds']:6.1f} s"
    load = f"   other programs kept {row['other_load']:.1f} cores busy" if row.get("other_load", 0) > 0.1 else ""
    return f"{where}   {figures}{load}"


def report(text: str, minutes: float, rows: list[Row]) -> None:
    """A line for each program: medians over its runs; then ours against the best of each peer."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        if row["text"] == text and "failed" not in row:
            runs.setdefault(row["name"], []).append(row)
    bits = {name: median(row["bits_per_byte"] for row in found) for name, found in runs.items()}
    print(f"\n{text}, {minutes:g} minutes")
    ours = bits.get("fledge train", math.nan)
    for name, found in sorted(runs.items(), key=lambda item: bits[item[0]]):
        values = [row["bits_per_byte"] for row in found]
        interval = f"{min(values):.4f} to {max(values):.4f}, {len(found)}"
        size, steps, seconds = (median(row[key] for row in found) for key in ("parameters", "steps", "seconds"))
        print(f"  {name:<36}{size / 1e6:6.1f}M{steps:>8,.0f} steps{seconds:8.1f} s", end="   ")
        print(f"{bits[name]:.4f} bits per byte ({interval})   ours / it {ours / bits[name]:.3f}")
    for library, wanted in WANTED.items():
        of_library = [bits[name] for name, found in runs.items() if found[0]["peer"].get("library") == library]
        if of_library:
            fewer = 100 * (1 - ours / min(of_library))
            print(f"  {fewer:.1f} % fewer bits per byte than the best of {library} (wanted: {wanted} %)")
    times = [row["seconds"] for row in runs.get("fledge train", ())]
    if times:
        wanted = max(3.0, 1.8 * minutes)
        print(f"  fledge train took {min(times):.1f} to {max(times):.1f} s (wanted: {60 * minutes:g} ± {wanted:.1f})")


if __name__ == "__main__":
    main()
