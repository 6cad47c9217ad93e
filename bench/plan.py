"""Do plans hold? Five texts, two times each: `fledge plan TEXT --minutes N`, then what it proposes is really trained.

    python bench/plan.py TEXT TEXT TEXT TEXT TEXT [--minutes 1 3] [--runs DIR] [--json FILE]

A text is a file, a folder, or the name of a corpus; it is prepared first. On a quiet machine; with the default times 20
to 25 minutes. The table shows how long planning took, the time of the whole training command against what was asked and
against the forecast, and whether bits per byte on the whole validation split lie inside of the interval.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import machine, versions
from fledge.planning.loss_forecast import final_bits_per_byte
from fledge.runs.run_folder import open_run
from fledge.tracking.sinks.csv import read_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    args = parser.parse_args()
    print(machine(), "|", versions("torch"), flush=True)
    print(f"{'':<14}{'minutes':>8}{'planning':>10}{'forecast':>10}{'run':>7}{'ratio':>7}{'command':>9}{'bits/byte':>11}"
          f"{'forecast':>10}{'interval':>16}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs or Path(folder)
        for text in args.texts:  # prepare, and read the disk once
            fledge("plan", text, "--minutes", "0.5", "--runs", str(runs / "none"), "--json")
        found = [check(text, minutes, runs) for text in args.texts for minutes in args.minutes]
    summary(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def fledge(*words: str) -> tuple[Any, float]:
    """The JSON answer of a command, and its seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "fledge", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}")
    return json.loads(done.stdout), time.perf_counter() - begun


def check(text: str, minutes: float, runs: Path) -> dict[str, Any]:
    # Every run in a folder of its own: a finished run on the same text would make the next forecast better.
    folder = runs / f"{Path(text).stem}-{minutes:g}"
    plan, planning = fledge("plan", text, "--minutes", f"{minutes:g}", "--runs", str(folder), "--json")
    _, command = fledge(*shlex.split(plan["command"])[1:], "--run", "checked", "--runs", str(folder), "--json")
    run = open_run("checked", folder)
    measured, bits = final_bits_per_byte(run, read_metrics(run.folder)), plan["bits_per_byte"] or {}
    events = [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]
    seconds = next(event["seconds"] for event in events if event["event"] == "Ended")
    row = {
        "text": Path(text).stem,
        "minutes": minutes,
        "planning_seconds": planning,
        "forecast_seconds": plan["seconds"],
        "run_seconds": seconds,
        "command_seconds": command,
        "bits_per_byte": measured,
        "expected": bits.get("expected"),
        "low": bits.get("low"),
        "high": bits.get("high"),
        "other_load": plan["other_load"],
        "model": plan["settings"]["model"],
        "steps": plan["steps"],
    }
    ratio = row["forecast_seconds"] / seconds
    interval = f"{bits['low']:.3f} to {bits['high']:.3f}" if bits else "none"
    print(f"{row['text']:<14}{minutes:>8g}{planning:>8.0f} s{plan['seconds']:>8.0f} s{seconds:>5.0f} s{ratio:>7.2f}"
          f"{command:>7.0f} s{measured or 0:>11.3f}{bits.get('expected', 0):>10.3f}{interval:>16}"
          f"{'' if is_inside(row) else '   OUTSIDE'}", flush=True)  # fmt: skip
    return row


def is_inside(row: dict[str, Any]) -> bool:
    return None not in (row["low"], row["bits_per_byte"]) and row["low"] <= row["bits_per_byte"] <= row["high"]


def summary(found: list[dict[str, Any]]) -> None:
    within = sum(abs(row["forecast_seconds"] / row["run_seconds"] - 1) <= 0.15 for row in found)
    widths = [row["high"] / row["expected"] - 1 for row in found if row["low"] is not None]
    in_time = sum(row["command_seconds"] <= 60 * row["minutes"] * 10 / 9 for row in found)
    print(f"time within 15 % of the forecast: {within} of {len(found)}")
    print(f"command within the minutes and a ninth: {in_time} of {len(found)}")
    print(f"loss inside of its interval: {sum(map(is_inside, found))} of {len(found)}"
          f"; half-width {100 * max(widths, default=0):.1f} % at most")  # fmt: skip
    print(f"planning: {max(row['planning_seconds'] for row in found):.0f} s at most")


if __name__ == "__main__":
    main()
