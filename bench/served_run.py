"""`fledge serve` as a process, with a run of random weights: for the soak tests and bench/serve.py.

with ServedRun(folder, "name", "5M") as served:
    served.url, served.pid
"""

import random
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from decode import SHAPES
from fledge.exchange.huggingface import write_hf_folder
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.recipes.import_model import import_model
from fledge.tokenizers.hf import HFTokenizer


class ServedRun:
    def __init__(self, folder: Path, name: str, size: str, *words: str) -> None:
        self.export = folder / "export"
        self.model, self.tokenizer = make_model(size)
        self.export.mkdir()
        write_hf_folder(self.export, self.model, self.tokenizer)
        import_model(str(self.export), name, folder)
        command = [sys.executable, "-m", "fledge", "serve", name, "--runs", str(folder), "--port", "0", *words]
        self._log = (folder / "log.txt").open("w")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        self.url = first_line(self._process)
        self.pid = self._process.pid
        if not self.url:
            raise SystemExit((folder / "log.txt").read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._log.close()
        if kind is None and code != 143:
            raise SystemExit(f"the server ended with {code}")


def first_line(process: "subprocess.Popen[str]") -> str:
    """Of its stdout: a server that is ready prints its URL."""
    return process.stdout.readline().strip() if process.stdout else ""


def make_model(size: str) -> tuple[GPT, HFTokenizer]:
    """A GPT-2 of random numbers, whose likeliest tokens have clear leads."""
    chance, syllables = random.Random(0), [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrs"]
    text = [" ".join("".join(chance.choices(syllables, k=3)) for _ in range(20_000))]
    tokenizer = HFTokenizer.train(text, SHAPES[size].vocab_size or 0, "<|endoftext|>")
    model = build(SHAPES[size], 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model, tokenizer
