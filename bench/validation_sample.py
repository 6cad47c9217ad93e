"""The validation sample: does its 95 % interval hold the whole split's loss, and what do the evaluations cost?

    python bench/validation_sample.py TEXT… [--preset text] [--seeds 20] [-- --train.steps 300 …]

TEXT is what `fledge train --data.corpus` takes. A run is trained on each. Then samples of the size that the run has
used are drawn with other seeds, and the interval of each is compared with the loss on the whole split. The cost is the
time of all evaluations on the sample, relative to the time of the run without the pass over the whole split.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from common import machine, versions
from fledge.core.device import choose_machine
from fledge.evaluation.loss import window_sums
from fledge.evaluation.sample import clusters, margin_of_error, sample_windows, windows
from fledge.runs.dataset import open_run_dataset
from fledge.runs.run_folder import RunFolder
from fledge.tokenizers.base import byte_lengths
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--preset", default="text")
    parser.add_argument("--seeds", type=int, default=20)
    args, settings = parser.parse_known_args()
    print(machine(), "|", versions("torch"), flush=True)
    for text in args.texts:
        with tempfile.TemporaryDirectory() as folder:
            words = ["train", args.preset, "--data.corpus", text, *settings, "--run", "bench", "--runs", folder]
            subprocess.run([sys.executable, "-m", "fledge", *words], check=True, stdout=subprocess.DEVNULL)
            run = RunFolder(Path(folder) / "bench")
            print(f"{Path(text).name:<24} {coverage(run, args.seeds)}; {cost(run)}", flush=True)


def coverage(run: RunFolder, seeds: int) -> str:
    loaded, config = run.load(), run.config()
    split = open_run_dataset(run, config["data"]["path"]).split("val")
    context, tokens = loaded.model.config.context, config["train"]["eval_tokens"]
    every = windows(len(split), context)
    sums = window_sums(
        loaded.model, split, byte_lengths(loaded.tokenizer), choose_machine("cpu", "float32"), iter, every
    ).numpy()
    of_window = dict(zip(every, sums, strict=True))
    whole = sums[:, 0].sum() / sums[:, 2].sum()
    errors, intervals = [], []
    for seed in range(seeds):
        chosen = sample_windows(len(split), context, tokens, seed)
        own = np.stack([of_window[window] for window in chosen])
        margin = margin_of_error(own[:, 0], own[:, 2], clusters(split, chosen), len(split) - 1)
        if margin is None:
            return f"{tokens:,} of {len(split) - 1:,} tokens: too few windows for an interval"
        errors.append(own[:, 0].sum() / own[:, 2].sum() - whole)
        intervals.append(margin)
    held = sum(abs(off) <= width for off, width in zip(errors, intervals, strict=True))
    return (
        f"{tokens:,} of {len(split) - 1:,} tokens: interval ± {np.mean(intervals):.4f} nats holds {whole:.4f}"
        f" in {held} of {seeds} samples (root mean square error {np.sqrt(np.mean(np.square(errors))):.4f})"
    )


def cost(run: RunFolder) -> str:
    seconds = read_metrics(run.folder).measured("val/seconds")
    events = list(read_events(run.folder))
    begun = {event["name"]: event["time"] for event in events if event["event"] == "Activity"}
    whole = [at for name, at in begun.items() if name.endswith("the whole validation split")]
    started = next(event["time"] for event in events if event["event"] == "Started")
    trained = (min(whole) if whole else events[-1]["time"]) - started
    return f"{len(seconds)} evaluations took {sum(seconds) / trained:.1%} of {trained:.0f} s"


if __name__ == "__main__":
    main()
