"""What a page that follows a run costs its training, and how long after a step the page has it.

    python bench/follow.py --text input.txt --rounds 3

The same training runs alternately with and without a follower of its stream. The follower is this process, which only
reads; a browser that draws has a load of its own. Prints the ratio of the median step times, and the delays.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from common import machine, versions
from fledge.tracking.events import Metrics
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import read_events

TOKEN = "token-of-the-benchmark"  # noqa: S105
FLEDGE = [sys.executable, "-m", "fledge"]


def follow(url: str, run: str, received: dict[int, float], stop: threading.Event) -> None:
    """Write down when each step arrives."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    parameters = {"run": run, "after": "0-00000000"}
    with httpx.stream("GET", f"{url}/api/runs/follow", params=parameters, headers=headers, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:") and '"rows"' in line:
                for row in json.loads(line.removeprefix("data:"))["rows"]:
                    received.setdefault(row["step"], time.time())
            if stop.is_set():
                return


def train(name: str, folder: Path, args: argparse.Namespace, url: str | None) -> tuple[float, list[float]]:
    """The median time of a step, and the delays of the steps."""
    command = [*FLEDGE, "train", args.preset, str(args.text), "--runs", str(folder), "--run", name]
    command += ["--train.steps", str(args.steps), "--train.log_every", "1", "--data.val", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    received: dict[int, float] = {}
    stop = threading.Event()
    if url:
        while not (folder / name / "events.jsonl").exists():
            time.sleep(0.1)
        threading.Thread(target=follow, args=(url, name, received, stop), daemon=True).start()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed")
    time.sleep(2)
    stop.set()
    written = {event["step"]: event["time"] for event in read_events(folder / name, Metrics)}
    delays = [received[step] - written[step] for step in sorted(received) if step in written]
    if url and len(delays) < args.steps:
        raise SystemExit(f"only {len(delays)} of {args.steps} steps arrived")
    return statistics.median(read_metrics(folder / name).measured("train/step_seconds")), delays[args.steps // 10 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--preset", default="nanogpt-shakespeare-cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(machine(), versions("torch", "fastapi", "uvicorn"))
    with tempfile.TemporaryDirectory() as name:
        folder, token = Path(name) / "runs", Path(name) / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)
        command = [*FLEDGE, "studio", "--runs", str(folder), "--port", "0", "--no-browser", "--token-file", str(token)]
        studio = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert studio.stdout is not None  # noqa: S101
        url = studio.stdout.readline().partition("/?")[0]
        try:
            alone, followed, delays = [], [], []
            for number in range(args.rounds):
                alone.append(train(f"alone-{number}", folder, args, None)[0])
                seconds, delay = train(f"followed-{number}", folder, args, url)
                followed.append(seconds)
                delays += delay
        finally:
            studio.terminate()
            studio.wait()
    cost = statistics.median(b / a for a, b in zip(alone, followed, strict=True)) - 1
    print(f"step: alone {1e3 * statistics.median(alone):.2f} ms, followed {1e3 * statistics.median(followed):.2f} ms")
    print(f"following costs {100 * cost:+.2f} % (median of {args.rounds} pairs)")
    print(f"delay until a step is shown: median {statistics.median(delays):.2f} s, longest {max(delays):.2f} s")


if __name__ == "__main__":
    main()
