"""The microscope of the studio: how long its answers take, and how long a move of the slider. Checks the weights first.

    python bench/microscope.py                      # 12 layers, 12 heads, 768 wide, 256 tokens, three checkpoints
    python bench/microscope.py --width 384 --tokens 1024

A run of random weights is served by `fledge studio`, in a process of its own. `text` is a new text at a checkpoint
whose model is loaded: tokens, losses, the grid of all heads and one head. `slider` is the same at checkpoints that were
seen before; with playwright and a Chromium also in the page, from the move to the painted canvas.
"""

import argparse
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import torch

import common
from fledge.checkpoint import store
from fledge.checkpoint.state import State, weights_of
from fledge.exchange.huggingface import write_hf_folder
from fledge.insight.attention import attention_weights
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.recipes.import_model import import_model
from fledge.runs.run_folder import open_run
from fledge.tokenizers.hf import HFTokenizer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOCABULARY, CONTEXT, RUN = 8192, 1024, "random"
TIMES, MOVES = 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--checkpoints", type=int, default=3)
    args = parser.parse_args()
    print(common.machine())
    print(common.versions("torch", "fastapi", "uvicorn"))
    with tempfile.TemporaryDirectory() as folder:
        print(f"12 layers × 12 heads, {args.width} wide, {args.tokens} tokens, {args.checkpoints} checkpoints")
        models, tokenizer = make_run(Path(folder), args.width, args.checkpoints)
        with studio(Path(folder)) as asking:
            measure(asking, models, Texts(tokenizer, args.tokens))


@dataclass
class Texts:
    """Texts of about so many tokens, never the same twice."""

    tokenizer: HFTokenizer
    tokens: int
    made: int = 0

    def new(self) -> tuple[str, torch.Tensor]:
        self.made += 1
        ids = self.tokenizer.encode(" ".join(words(self.made, self.tokens)))[: self.tokens]
        text = self.tokenizer.decode(ids.tolist())
        return text, torch.from_numpy(self.tokenizer.encode(text).astype("int64"))


def words(seed: int, count: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices("bdfgklmnprstaeiou", k=5)) for _ in range(count)]


def make_run(folder: Path, width: int, checkpoints: int) -> tuple[list[GPT], HFTokenizer]:
    """Models of random numbers as the checkpoints of one run."""
    tokenizer = HFTokenizer.train([" ".join(words(0, 60_000))], VOCABULARY, "<|endoftext|>")
    config = ModelConfig(n_layer=12, n_head=12, n_embd=width, context=CONTEXT, vocab_size=VOCABULARY)
    models = []
    for step in range(checkpoints):
        model = build(config, step).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3.0 if p.ndim > 1 else 1.0)  # attention that is far from even
        models.append(model)
    export = folder / "export"
    export.mkdir()
    write_hf_folder(export, models[0], tokenizer)
    import_model(str(export), RUN, folder / "runs")
    shutil.rmtree(export)
    run = open_run(RUN, folder / "runs")
    for step, model in enumerate(models[1:], 1):
        store.save(run.checkpoints, State(step, weights_of(model), {}, {}, weights_only=True))
    return models, tokenizer


@dataclass(frozen=True)
class Asking:
    url: str
    client: httpx.Client

    def post(self, route: str, step: int, text: str, **more: int) -> httpx.Response:
        body: dict[str, Any] = {"run": RUN, "step": step, "text": text, **more}
        return self.client.post(f"/api/microscope/{route}", json=body).raise_for_status()

    def look(self, step: int, text: str, layer: int = 5, head: int = 7) -> httpx.Response:
        """As the page asks: the tokens, then the grid and one head."""
        self.post("tokens", step, text)
        self.post("grid", step, text)
        return self.post("head", step, text, layer=layer, head=head)


@contextmanager
def studio(folder: Path) -> Iterator[Asking]:
    command = [sys.executable, "-m", "fledge", "studio", "--runs", str(folder / "runs"), "--port", "0", "--no-browser"]
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        if not url:
            raise SystemExit((folder / "log.txt").read_text())
        [token] = parse_qs(urlsplit(url).query)["token"]
        header = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url.partition("/?")[0], headers=header, timeout=600) as client:
            yield Asking(url, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def measure(asking: Asking, models: list[GPT], texts: Texts) -> None:
    text, ids = texts.new()
    for step, model in enumerate(models):
        loading = common.timed(lambda step=step: asking.look(step, text))  # type: ignore[misc]
        check(asking, step, text, attention_weights(model, ids))
        print(f"checkpoint {step}: first look {loading:.2f} s, with its model; weights are the readable attention's")
    report("text: tokens, losses, grid and one head", [new_text(asking, texts) for _ in range(TIMES)])
    report("scores of all heads", [scores(asking, step) for step in range(len(models))])
    report("logit lens", [common.timed(lambda: asking.post("lens", 0, texts.new()[0])) for _ in range(TIMES)])
    report("another head", repeated(lambda n: asking.post("head", 0, text, layer=n % 12, head=n // 2)))
    report("slider: the answers", repeated(lambda n: asking.look(n % len(models), text)))
    if CHROMIUM and find_spec("playwright"):
        report("slider: in the page, until it is painted", in_the_page(asking, text, len(models)))


def check(asking: Asking, step: int, text: str, weights: torch.Tensor) -> None:
    for layer, head in ((0, 0), (5, 7), (11, 11)):
        answer = asking.post("head", step, text, layer=layer, head=head)
        found = np.frombuffer(answer.content, "<f4").reshape(weights.shape[2:])
        difference = float(np.abs(found - weights[layer, head].numpy()).max())
        if not difference < 1e-5:
            raise SystemExit(
                f"layer {layer}, head {head}: a weight differs from the readable attention by {difference}"
            )


def new_text(asking: Asking, texts: Texts) -> float:
    text, _ = texts.new()
    return common.timed(lambda: asking.look(0, text))


def scores(asking: Asking, step: int) -> float:
    about = {"run": RUN, "step": step}
    return common.timed(lambda: asking.client.get("/api/microscope/scores", params=about).raise_for_status())


def repeated(ask: Callable[[int], object]) -> list[float]:
    return [common.timed(lambda n=n: ask(n)) for n in range(MOVES)]  # type: ignore[misc]


def report(what: str, seconds: list[float]) -> None:
    print(
        f"{what:<44} median {1000 * statistics.median(seconds):7.0f} ms   slowest {1000 * max(seconds):7.0f} ms",
        flush=True,
    )


MOVE = """async (index) => {
  const slider = document.querySelector('.checkpoints input'), page = document.querySelector('.page');
  slider.value = index;
  const begun = performance.now();
  slider.dispatchEvent(new Event('input'));
  while (page.dataset.step !== String(index)) await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return (performance.now() - begun) / 1000;
}"""


def in_the_page(asking: Asking, text: str, checkpoints: int) -> list[float]:
    """Seconds from a move of the slider to the painted canvas, where the checkpoints were fetched before."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(asking.url)
        page.goto(f"{asking.url.partition('?')[0]}#/microscope?run={RUN}%400&text={text.replace(' ', '+')}")
        for index in range(checkpoints):  # each is fetched once
            page.wait_for_selector(".prediction")
            page.evaluate(MOVE, index)
            time.sleep(1)
        return [float(page.evaluate(MOVE, move % checkpoints)) for move in range(MOVES)]


if __name__ == "__main__":
    main()
