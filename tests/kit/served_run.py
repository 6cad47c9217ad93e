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
from typing import Any, Self

import torch

from fledge.cli.main import main
from fledge.exchange.huggingface import write_hf_folder
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tokenizers.hf import HFTokenizer

SHAPES = {
    "5M": {"n_layer": 6, "n_head": 4, "n_embd": 256, "context": 512},
    "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 64, "context": 256},
}
VOCABULARY = 4096


class ServedRun:
    def __init__(self, folder: Path, name: str, size: str, *words: str) -> None:
        self.export = folder / "export"
        self.model, self.tokenizer = make_model(size)
        self.export.mkdir()
        write_hf_folder(self.export, self.model, self.tokenizer)
        assert main(["import", str(self.export), "--out", name, "--runs", str(folder)]) == 0
        command = [sys.executable, "-m", "fledge", "serve", name, "--runs", str(folder), "--port", "0", *words]
        self._log = (folder / "log.txt").open("w")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.pid = self._process.pid
        assert self.url, (folder / "log.txt").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._log.close()
        assert kind is not None or code == 143, f"the server ended with {code}"


def make_model(size: str) -> tuple[GPT, HFTokenizer]:
    """A GPT-2 of random numbers, whose likeliest tokens have clear leads."""
    chance, syllables = random.Random(0), [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrs"]
    text = [" ".join("".join(chance.choices(syllables, k=3)) for _ in range(20_000))]
    tokenizer = HFTokenizer.train(text, VOCABULARY, "<|endoftext|>")
    config = ModelConfig(**SHAPES[size], **gpt2(), vocab_size=VOCABULARY)
    model = build(config, 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model, tokenizer


def gpt2() -> dict[str, Any]:
    from tiny import GPT2_PARTS

    return {**GPT2_PARTS, "mlp": "gelu_tanh", "qk_norm": False, "tied": True}
