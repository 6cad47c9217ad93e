"""Pictures of every page of the studio, for docs/studio.md: dark, light, and on a telephone.

    python bench/studio_screenshots.py --runs runs --run python
    python bench/studio_screenshots.py                      # trains a small run on the embedded corpus first

Needs playwright and Chromium; with Pillow, the files have a palette and are a third of the size.
"""

import argparse
import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
OUT = HERE / "docs" / "studio"
MAX_BYTES = 150_000
SETTINGS = {
    "model": {"n_layer": 4, "n_head": 4, "n_embd": 192, "context": 128},
    "train": {"steps": 700, "batch": 16, "save_every": 50, "eval_every": 50, "sample_every": 50, "keep_last": 20},
}
PHRASE = "class Bird(object):\n    def __init__(self, *args, **kwargs):\n        raise NotImplementedError"

REPEATED = (
    "def area(width, height):\n    return width * height\n\ndef volume(width, height):\n    return width * height"
)


def generate(page: Any) -> None:
    page.get_by_label("Prompt").fill("def __init__(self")
    page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")
    page.locator(".page-playground [role=button]").nth(9).click()
    page.mouse.wheel(0, 380 if page.viewport_size["width"] < 800 else 0)


def show_a_head(page: Any) -> None:
    page.get_by_role("textbox", name="Text").fill(REPEATED)
    page.wait_for_timeout(2500)
    canvas = page.locator(".page-microscope canvas").first
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.4, "y": box["height"] * 0.62})


def look_up(page: Any) -> None:
    page.get_by_role("textbox").first.fill(PHRASE)
    page.get_by_role("button", name="Look it up").click()
    page.locator(".origin-verdict").wait_for(timeout=120_000)


def step_back(page: Any) -> None:
    page.locator(".merge-words").wait_for()
    for _ in range(6):
        page.get_by_role("button", name="Back").click()
    page.get_by_role("listbox").first.focus()
    page.keyboard.press("ArrowRight")
    page.evaluate("scrollTo(0, 0)")


def nothing(_: Any) -> None: ...


# name → address, what is done there before the picture
PICTURES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "runs": ("#/runs", nothing),
    "run": ("#/runs?run={run}", nothing),
    "playground": ("#/playground?run={run}", generate),
    "microscope": ("#/microscope?run={run}", show_a_head),
    "tokenizer": ("#/tokenizer?run={run}&other=openai:gpt2", step_back),
    "data": ("#/data?run={run}&view=batch&step=40", nothing),
    "origin": ("#/origin?run={run}", look_up),
}
ON_A_TELEPHONE = ("runs", "playground", "microscope", "tokenizer")


@contextlib.contextmanager
def studio(runs: Path) -> Iterator[str]:
    """`fledge studio` on these runs; gives the URL that it prints."""
    command = [sys.executable, "-m", "fledge", "studio", "--runs", str(runs), "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()  # type: ignore[union-attr]
        finally:
            process.terminate()


def take(browser: Any, url: str, run: str, theme: str, *, phone: bool, names: list[str]) -> None:
    size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 960}
    context = browser.new_context(viewport=size, color_scheme=theme, device_scale_factor=2 if phone else 1)
    page = context.new_page()
    page.goto(url)
    for name in names:
        address, prepare = PICTURES[name]
        page.goto(url.split("?")[0] + address.format(run=run))
        page.locator("h1").wait_for()
        page.wait_for_timeout(1500)
        prepare(page)
        page.wait_for_timeout(700)
        file = OUT / f"{name}-{'phone' if phone else theme}.png"
        file.write_bytes(smaller(page.screenshot()))
        print(f"{file.relative_to(HERE)}: {file.stat().st_size / 1000:.0f} kB", flush=True)
    context.close()


def smaller(png: bytes) -> bytes:
    """With a palette of as many colours as MAX_BYTES allows."""
    try:
        from PIL import Image
    except ImportError:
        return png
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").quantize(colours).save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="a folder of runs (default: one is trained)")
    parser.add_argument("--run", default="python", help="the run that the pages show (default: python)")
    parser.add_argument("--only", nargs="*", choices=[*PICTURES, "welcome"], default=[*PICTURES, "welcome"])
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        if args.runs is None:
            import fledge

            fledge.train("demo", name=args.run, runs=Path(temporary) / "runs", **SETTINGS)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        names = [name for name in PICTURES if name in args.only]
        with studio(args.runs or Path(temporary) / "runs") as url:
            for theme in ("light", "dark"):
                take(browser, url, args.run, theme, phone=False, names=names)
            take(browser, url, args.run, "light", phone=True, names=[name for name in names if name in ON_A_TELEPHONE])
        if "welcome" in args.only:
            with studio(Path(temporary) / "none") as url:
                PICTURES["welcome"] = ("#/runs", nothing)
                for theme in ("light", "dark"):
                    take(browser, url, args.run, theme, phone=False, names=["welcome"])
        browser.close()


if __name__ == "__main__":
    main()
