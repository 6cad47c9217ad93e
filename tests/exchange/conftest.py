"""Small models of every architecture, and llama.cpp to run exported ones."""

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from fledge.core.device import Machine
from fledge.inference.generate import generate
from fledge.inference.sampler import sampling_strategies
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build
from fledge.tokenizers.hf import HFTokenizer
from tiny import GPT2_PARTS

TEXT = "The duck could write, and it's said that she wrote 12345 letters.\n\nOnce, café au lait!  Two  spaces. " * 20
VOCABULARY = 300
MODERN = ModelConfig(n_layer=2, n_head=4, n_kv_head=2, n_embd=64, head_dim=16, context=96, vocab_size=VOCABULARY)
CLASSIC = ModelConfig(
    n_layer=2,
    n_head=4,
    n_embd=64,
    context=96,
    vocab_size=VOCABULARY,
    mlp="gelu_tanh",
    qk_norm=False,
    tied=True,
    **GPT2_PARTS,
)
PLAIN = replace(MODERN, qk_norm=False)
SHAPES = {
    "GPT2LMHeadModel": CLASSIC,
    "LlamaForCausalLM": replace(PLAIN, rotary_base=5e5, norm_eps=1e-5),
    "MistralForCausalLM": replace(PLAIN, window=8, head_dim=8),
    "Qwen2ForCausalLM": replace(PLAIN, qkv_bias=True),
    "Qwen3ForCausalLM": replace(MODERN, rotary_base=1e6, head_dim=32),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models are faster on one thread, above all when tests run in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def randomized(model: torch.nn.Module, size: float = 0.15) -> torch.nn.Module:
    """Random weights, biases and norms, so that a mistake in any of them changes the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_norm = ("norm" in name or "ln_" in name) and name.endswith("weight")
            p.copy_(1 + 0.2 * noise if is_norm else size * noise)
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer() -> HFTokenizer:
    return HFTokenizer.train([TEXT], VOCABULARY, "<|endoftext|>")


@pytest.fixture
def make() -> Callable[[ModelConfig], GPT]:
    def made(config: ModelConfig) -> GPT:
        model = build(config, 0)
        randomized(model)
        return model

    return made


@dataclass(frozen=True)
class Forbid:
    """Never sample one token, as llama.cpp does with ignore_eos."""

    token: int

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([self.token]), float("-inf"))


@pytest.fixture
def greedy() -> Callable[..., list[int]]:
    """Greedy continuation by one of our models."""

    def continue_greedily(model: GPT, prompt: list[int], count: int, never: int | None = None) -> list[int]:
        row = (*([] if never is None else [Forbid(never)]), *sampling_strategies(0.0))
        tokens = generate(model, torch.tensor([prompt]), row, Machine("cpu", "float32"), count, 0)
        return [int(token) for token in tokens]

    return continue_greedily


class Llama:
    """llama.cpp with one file loaded, queried through its own local server."""

    def __init__(self, path: Path) -> None:
        library = pytest.importorskip("xllamacpp")
        params = library.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 96
        params.n_parallel = 1
        params.verbosity = -1
        params.warmup = False
        params.fit_params = False
        params.cpuparams.n_threads = 1
        # fp32 throughout: by default it keeps keys and values in half precision.
        params.cache_type_k = params.cache_type_v = library.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = library.Server(params)

    def ask(self, where: str, **question: Any) -> Any:
        address = urlsplit(self.server.listening_address)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        connection.request("POST", f"/{where}", json.dumps(question), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())

    def tokens(self, text: str) -> list[int]:
        return list(self.ask("tokenize", content=text)["tokens"])

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        options = {"n_predict": count, "temperature": 0, "return_tokens": True, "ignore_eos": True}
        return list(self.ask("completion", prompt=prompt, **options)["tokens"])


@pytest.fixture
def llama() -> Iterator[Callable[[Path], Llama]]:
    opened: list[Llama] = []

    def open_file(path: Path) -> Llama:
        opened.append(Llama(path))
        return opened[-1]

    yield open_file
    opened.clear()
