"""Time to a given loss: fledge against nanoGPT, on tiny Shakespeare by character, context 64, on a CPU.

    python bench/time_to_loss.py --nanogpt CHECKOUT --text DATA/shakespeare/input.txt [--rounds 1] [--target 1.898]

nanoGPT runs its README's example for a computer without a GPU with its own train.py: stock, and with the learning rate
and the length given by `--tuned`. fledge runs the preset sprint-shakespeare. Both train on the first 90 % of the text
and are evaluated alike: the loss over all of the last 10 %, in windows of 64. Each is timed as a whole command with
start-up, preparation and saving: cold, with an empty cache, and warm, the same again; and by its steps alone: the warm
command minus the same command with one step. A run that misses the target is shown with the loss that it reached.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from common import copy_nanogpt, machine, run, timed, versions

README = {
    "device": "cpu",
    "compile": "False",
    "eval_iters": "20",
    "log_interval": "100",
    "block_size": "64",
    "batch_size": "12",
    "n_layer": "4",
    "n_head": "4",
    "n_embd": "128",
    "max_iters": "2000",
    "lr_decay_iters": "2000",
    "dropout": "0.0",
}


@dataclass
class Result:
    loss: float
    cold: float
    warm: float
    steps: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--target", type=float, default=1.898)
    parser.add_argument("--steps", type=int, nargs="*", default=[100], help="lengths of fledge's run")
    parser.add_argument("--tuned", nargs=2, metavar=("RATE", "STEPS"), default=["3e-3", "1200"])
    args = parser.parse_args()
    print(machine(), "|", versions("torch"), flush=True)
    rate, steps = args.tuned
    tuned = {"learning_rate": rate, "min_lr": "1e-4", "max_iters": steps, "lr_decay_iters": steps}
    peers: dict[str, dict[str, str]] = {"nanoGPT, stock": {}, f"nanoGPT, rate {rate}, {steps} steps": tuned}
    results: dict[str, list[Result]] = {}
    for _ in range(args.rounds):
        for steps in args.steps:
            results.setdefault(f"sprint-shakespeare, {steps} steps", []).append(ours(args.text, steps))
        for name, change in peers.items():
            results.setdefault(name, []).append(nanogpt(args.nanogpt, args.text, change))
    report(results, args.target)


def report(results: dict[str, list[Result]], target: float) -> None:
    medians = {
        name: Result(*(median(getattr(each, key) for each in runs) for key in ("loss", "cold", "warm", "steps")))
        for name, runs in results.items()
    }
    first = next(iter(medians.values()))
    for name, it in medians.items():
        note = "" if it.loss <= target else f"   misses {target}"
        print(
            f"{name:<36} loss {it.loss:.4f}   steps {it.steps:6.1f} s ({it.steps / first.steps:.1f}x ours)"
            f"   command, cold {it.cold:6.1f} s ({it.cold / first.cold:.1f}x)"
            f"   warm {it.warm:6.1f} s ({it.warm / first.warm:.1f}x){note}"
        )


def ours(text: Path, steps: int) -> Result:
    def command(name: str, count: int) -> None:
        words = ["train", "sprint-shakespeare", "--data.corpus", str(text), "--data.val", "0.1", "--run", name]
        words += ["--train.steps", str(count), "--train.eval_every", "0", "--train.sample_every", "0"]
        run([sys.executable, "-m", "fledge", *words], folder)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cold = timed(lambda: command("cold", steps))
        warm = timed(lambda: command("warm", steps))
        start = timed(lambda: command("start", 1))
        evaluated = run([sys.executable, "-m", "fledge", "eval", "warm", "--json"], folder)
    return Result(json.loads(evaluated)["loss"], cold, warm, warm - start)


def nanogpt(checkout: Path, text: Path, change: dict[str, str]) -> Result:
    """By its own train.py."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_nanogpt(checkout, folder, text)

        def command(count: str) -> None:
            settings = {**README, **change, "max_iters": count, "eval_interval": count}
            words = [f"--{name}={value}" for name, value in settings.items()]
            run([sys.executable, "train.py", "config/train_shakespeare_char.py", *words], folder)

        cold, warm = (timed(lambda: command({**README, **change}["max_iters"])) for _ in range(2))
        loss = nanogpt_loss(folder)
        start = timed(lambda: command("1"))
        return Result(loss, cold, warm, warm - start)


EVALUATE = """
import sys, numpy as np, torch
sys.path.insert(0, ".")
from model import GPT, GPTConfig
saved = torch.load("out-shakespeare-char/ckpt.pt", map_location="cpu", weights_only=True)
model = GPT(GPTConfig(**saved["model_args"])).eval()
model.load_state_dict(saved["model"])
ids = torch.from_numpy(np.fromfile("data/shakespeare_char/val.bin", dtype=np.uint16).astype(np.int64))
T = 64
total = count = 0
with torch.no_grad():
    for start in range(0, len(ids) - 1, T):
        x, y = ids[start : start + T], ids[start + 1 : start + T + 1]
        x = x[: len(y)]
        logits, loss = model(x[None], y[None])
        total, count = total + float(loss) * len(y), count + len(y)
print(total / count)
"""


def nanogpt_loss(folder: Path) -> float:
    output = run([sys.executable, "-c", EVALUATE], folder)  # nanoGPT prints something first
    return float(output.split()[-1])


if __name__ == "__main__":
    main()
