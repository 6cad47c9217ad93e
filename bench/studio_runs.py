"""First paint of the page Runs in Chromium: a list of 1,000 runs, and the curves of a run of a million rows.

    python bench/studio_runs.py --run runs/demo

`--run`: a small run, which is copied 1,000 times. Each time is from the start of the navigation until the first row, or
the first curve, is drawn, in a studio that has read nothing yet; the second is with everything in memory. It is checked
that all runs are listed, and that the curve has the two steps that stand out among the million. Needs playwright and
Chromium.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from common import machine, versions

TOKEN = "token-of-the-benchmark"  # noqa: S105
LIST, CURVES = "runs", "runs?run=million"
READY = {
    LIST: "document.querySelectorAll('.runs-table tbody tr').length >= 30",
    CURVES: "Number(document.querySelector('.chart.tall')?.dataset.points ?? 0) > 1000",
}
COLUMNS = "step,train/loss,train/lr,train/grad_norm,train/step_seconds,train/tokens_per_second,train/tokens,val/loss"
LOWEST, HIGHEST = (0.321, 0.654), (0.25, 99.5)  # where in the run, and the training loss there


def copy_runs(run: Path, folder: Path, count: int) -> None:
    for number in range(count):
        copy_run(run, folder / f"run-{number:04d}")


def copy_run(run: Path, folder: Path) -> Path:
    ignored = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(run, folder, copy_function=shutil.copyfile, ignore=ignored))


def write_metrics(folder: Path, rows: int) -> None:
    chance, steps = np.random.default_rng(0), np.arange(1, rows + 1)
    loss = 3 + 5 * np.exp(-steps / 50_000) + 0.1 * chance.normal(size=rows)
    for place, value in (LOWEST, HIGHEST):
        loss[int(place * rows)] = value
    norm = np.exp(0.3 * chance.normal(size=rows))
    with (folder / "metrics.csv").open("w") as file:
        file.write(COLUMNS + "\n")
        for step, value, size in zip(steps.tolist(), loss.tolist(), norm.tolist(), strict=True):
            measured = repr(value + 0.1) if step % 1000 == 0 else ""
            file.write(f"{step},{value!r},{1e-3 * (1 - step / rows)!r},{size!r},{0.01 + size / 1e4!r},")
            file.write(f"{3276.8 / size!r},{4096 * step},{measured}\n")


def first_paint(page: Any, url: str, place: str) -> float:
    page.goto("about:blank")
    begun = time.perf_counter()
    page.goto(f"{url}/#/{place}", wait_until="commit")
    page.wait_for_function(f"() => {READY[place]}", polling="raf")
    return time.perf_counter() - begun


def check_list(page: Any, count: int) -> None:
    """All names are there once the rest has been loaded and shown."""
    names: list[str] = []
    deadline = time.monotonic() + 60
    while len(names) < count and time.monotonic() < deadline:
        if (more := page.get_by_role("button", name="more of")).count():
            more.click()
        names = page.locator(".runs-table td.name a").all_inner_texts()
    if sorted(names) != [f"run-{number:04d}" for number in range(count)]:
        raise SystemExit(f"the list has {len(set(names))} of {count} runs")


def check_curve(curves: list[Any], rows: int) -> None:
    """What the page got of the training loss has the extremes, at their steps."""
    curve = next(each["curves"]["train/loss"] for each in curves if "train/loss" in each["curves"])
    points = dict(zip(curve["steps"], curve["values"], strict=True))
    for (place, value), found in ((LOWEST, min(points.values())), (HIGHEST, max(points.values()))):
        if found != value or points.get(int(place * rows) + 1) != value:
            raise SystemExit(f"the curve lacks {value} at step {int(place * rows) + 1}")
    if len(points) > rows / 10 or (min(points), max(points)) != (1, rows):
        raise SystemExit(f"the curve has {len(points)} points, from {min(points)} to {max(points)}")


def measure(chromium: Any, folder: Path, token: Path, place: str, args: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "fledge", "studio", "--runs", str(folder), "--port", "0", "--no-browser"]
    command += ["--token-file", str(token)]
    studio = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert studio.stdout is not None  # noqa: S101
    url = studio.stdout.readline().partition("/?")[0]
    try:
        context = chromium.new_context()
        context.add_cookies([{"name": f"fledge-studio-{url.rpartition(':')[2]}", "value": TOKEN, "url": url}])
        page, curves = context.new_page(), []
        page.on("response", lambda answer: curves.append(answer) if "/api/runs/curves" in answer.url else None)
        page.goto(f"{url}/api")  # the browser is warm; the studio has read no run
        cold = first_paint(page, url, place)
        if place == LIST:
            check_list(page, args.count)
        else:
            check_curve([answer.json() for answer in curves], args.rows)
        warm = first_paint(page, url, place)
        print(f"{place:<20} first paint {cold:.2f} s, again {warm:.2f} s", flush=True)
        context.close()
    finally:
        studio.terminate()
        studio.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(machine(), versions("fastapi", "pyarrow", "playwright"))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        many, long, token = (Path(name) / each for each in ("many", "long", "token"))
        token.write_text(TOKEN)
        token.chmod(0o600)
        copy_runs(args.run, many, args.count)
        write_metrics(copy_run(args.run, long / "million"), args.rows)
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(args.rounds):
            measure(chromium, many, token, LIST, args)
            measure(chromium, long, token, CURVES, args)
        chromium.close()


if __name__ == "__main__":
    main()
