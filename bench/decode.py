"""Tokens per second of generation, against transformers, llama.cpp and the bare matrix products of the same weights.

    python bench/decode.py [--sizes 124M 5M] [--dtypes float32 bfloat16 int8] [--rows 1 8 32] [--tokens 100]

All generate greedily from one prompt of 16 tokens, in turns, in one process, with the weights of one model of random
numbers: ours through the path that `choose_decoder` takes, transformers with its `generate`, llama.cpp through
xllamacpp from our own GGUF. For float32 the tokens must be those of transformers; for the rest the share of our tokens
that the model itself finds best is printed. `limit` is the measured memory bandwidth divided by the bytes that a token
needs. Rates are those of the median round.
"""

import argparse
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

import peers
from common import machine, versions
from fledge.core.device import DTYPES, Machine, choose_machine
from fledge.inference import choose_decoder as choice
from fledge.inference.bandwidth import bytes_per_step, memory_bandwidth
from fledge.inference.decoder import Decoder
from fledge.inference.linear import INT8_LINEARS, LINEARS
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.model.init import build

GPT2 = replace(peers.GPT2, mlp="gelu_tanh")
SHAPES = {
    "124M": replace(GPT2, n_layer=12, n_head=12, n_embd=768, context=1024, vocab_size=50_257),
    "5M": replace(GPT2, n_layer=6, n_head=4, n_embd=256, context=512, vocab_size=4096),
    "tiny": replace(GPT2, n_layer=2, n_head=2, n_embd=64, context=256, vocab_size=512),
}
PROMPT = 16  # tokens
GGUF_DTYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}


@dataclass(frozen=True)
class Text:
    """What one round of one program gave."""

    ids: Tensor  # [R, tokens]
    prefill: float  # seconds, where known
    decode: float  # seconds of all tokens but the first


def make_model(config: ModelConfig, device: str) -> GPT:
    """Random weights, larger than at the start of training: the best token is then clearly better than the second."""
    model = build(config, 0)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(2)
    return model.to(device).eval()


def prompts_of(config: ModelConfig, rows: int, device: str) -> Tensor:
    ids = torch.randint(config.vocab_size or 0, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
    return ids.to(device)


def greedy(decoder: Decoder, prompts: Tensor, count: int, here: Machine) -> Text:
    """Without an engine: what it adds is the business of bench/serve.py."""
    with torch.inference_mode():
        begun = time.perf_counter()
        ends = [decoder.head(decoder.prefill(row, 0, prompt)[-1:]) for row, prompt in enumerate(prompts)]
        tokens = torch.cat(ends).argmax(-1)
        choice.synchronize(here)
        prefilled, found = time.perf_counter(), [tokens]
        for length in range(PROMPT, PROMPT + count - 1):
            tokens = decoder.decode(tokens, [length] * len(prompts)).argmax(-1)
            found.append(tokens)
        choice.synchronize(here)
        return Text(torch.stack(found, 1), prefilled - begun, time.perf_counter() - prefilled)


@torch.no_grad()
def agreement(model: GPT, prompt: Tensor, ids: Tensor) -> float:
    """Share of the tokens that the model itself, in float32 and without a cache, finds best. prompt [P], ids [T]"""
    logits = model(torch.cat((prompt, ids))[None, :-1])[0, len(prompt) - 1 :]
    return float((logits.argmax(-1) == ids).float().mean())


def transformers_model(model: GPT) -> Any:
    """transformers' own class with the same weights."""
    import transformers

    from fledge.checkpoint.state import weights_of
    from fledge.exchange import compatibility, hf_config, names

    architecture = hf_config.choose_hf_architecture(model.config)
    compatible = compatibility.make_compatible(
        model.config, weights_of(model), architecture.constraints_of(model.config)
    )
    settings = hf_config.config_from_model(compatible.model, architecture)
    peer = getattr(transformers, architecture.name)(transformers.GPT2Config(**settings))
    weights = names.to_theirs(compatible.weights, compatible.model, architecture.names)
    missing, unexpected = peer.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"transformers does not know these weights: {missing} {unexpected}")
    peer.tie_weights()
    return peer.to(model.embed.weight.device).eval()


def transformers_greedy(peer: Any, prompts: Tensor, count: int, here: Machine) -> Text:
    """One call for one token, and one for all: the difference is decoding."""
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "attention_mask": torch.ones_like(prompts)}
    with torch.inference_mode():
        times = []
        for new in (1, count):
            begun = time.perf_counter()
            ids = peer.generate(prompts, max_new_tokens=new, min_new_tokens=new, **options)
            choice.synchronize(here)
            times.append(time.perf_counter() - begun)
    return Text(ids[:, PROMPT:], times[0], times[1] - times[0])


class LlamaCpp:
    """llama.cpp with our GGUF, asked through its own local server; it times itself."""

    def __init__(self, model: GPT, dtype: str, rows: int, threads: int, folder: Path) -> None:
        import xllamacpp

        from fledge.exchange.gguf import write_gguf

        path = folder / f"{dtype}.gguf"
        if not path.exists():
            write_gguf(path, model, bench_tokenizer(), dtype, "bench")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.verbosity = rows * model.config.context, rows, -1
        params.warmup, params.fit_params = True, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self.server = xllamacpp.Server(params)

    def __call__(self, prompts: Tensor, count: int) -> Text:
        (prompt,) = prompts.tolist()  # one stream: rows of its server do not begin together
        options = {"n_predict": count, "temperature": 0, "return_tokens": True, "ignore_eos": True}
        address = urlsplit(self.server.listening_address)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=600)
        question = json.dumps({"prompt": prompt, "cache_prompt": False, **options})
        connection.request("POST", "/completion", question, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        times = answer["timings"]
        rate = times["predicted_ms"] / 1000 / times["predicted_n"]
        return Text(torch.tensor([answer["tokens"]]), times["prompt_ms"] / 1000, rate * (count - 1))


def bench_tokenizer() -> Any:
    """A byte-level tokenizer; the ids beyond its own are never text."""
    from fledge.tokenizers.hf import HFTokenizer

    return HFTokenizer.train(["a text with few words"], 260, "<|endoftext|>")


def bare_products(model: GPT, kind: str, dtype: torch.dtype, rows: int) -> Callable[[], object]:
    """The matrix products of one step, in the form that the decoder uses, and nothing else."""
    products = []
    for weight in product_weights(model):
        x = torch.randn(rows, weight.shape[1], device=weight.device)
        bias = torch.zeros(len(weight), device=weight.device)
        products.append(((LINEARS | INT8_LINEARS)[kind](weight.to(dtype), bias.to(dtype)), x.to(dtype)))

    def run() -> None:
        with torch.inference_mode():
            for linear, x in products:
                linear(x)

    return run


def product_weights(model: GPT) -> Iterator[Tensor]:
    for block in model.blocks:
        attention: Any = block.attention
        yield torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]).detach()
        yield attention.output.weight.detach()
        mlp: Any = block.mlp
        yield torch.cat([linear.weight for linear in mlp.inputs()]).detach()
        yield mlp.down.weight.detach()
    yield model.head.weight.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["124M", "5M"])
    parser.add_argument("--dtypes", nargs="+", choices=list(GGUF_DTYPES), default=list(GGUF_DTYPES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="*", choices=["transformers", "llama.cpp"], default=[])
    args = parser.parse_args()
    here = choose_machine("auto", "float32")
    print(machine(), "|", versions("torch", "transformers", "xllamacpp"), "|", f"{here.threads} threads")
    print(f"memory bandwidth {memory_bandwidth(here) / 1e9:.1f} GB/s")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            model = make_model(SHAPES[size], here.device)
            for rows in args.rows:
                for dtype in args.dtypes:
                    compare_one(size, model, rows, dtype, here, args, Path(folder) / size)


def compare_one(
    size: str, model: GPT, rows: int, dtype: str, here: Machine, args: argparse.Namespace, folder: Path
) -> None:
    """One table: all programs in turns, after a round that is not counted."""
    folder.mkdir(exist_ok=True)
    chosen: list[choice.DecoderChoice] = []
    decoder = choice.choose_decoder(model, here, rows, dtype, chosen.append)
    prompts, path = prompts_of(model.config, rows, here.device), chosen[0].path
    print(f"\n{size}, {rows} rows, {dtype}: {chosen[0].describe()}")
    contenders = {"ours": lambda: greedy(decoder, prompts, args.tokens, here)}
    if "transformers" not in args.without and dtype in DTYPES:
        peer = transformers_model(model).to(DTYPES[dtype])
        contenders["transformers"] = lambda: transformers_greedy(peer, prompts, args.tokens, here)
    if "llama.cpp" not in args.without and rows == 1 and here.device == "cpu":
        llama = LlamaCpp(model, GGUF_DTYPES[dtype], rows, max(here.threads, path.threads), folder)
        contenders["llama.cpp"] = lambda: llama(prompts, args.tokens)
    step = bare_products(model, path.kind, DTYPES.get(path.dtype, torch.float32), rows)

    def bare() -> Text:
        begun = time.perf_counter()
        for _ in range(args.tokens - 1):
            step()
        choice.synchronize(here)
        return Text(torch.zeros(0), 0.0, time.perf_counter() - begun)

    if here.device == "cpu":  # on a GPU these would be launched one by one
        contenders["bare products"] = bare
    found: dict[str, list[Text]] = {name: [] for name in contenders}
    for turn in range(args.rounds + 1):
        for name, run in contenders.items():
            text = run()
            found[name] += [text] * (turn > 0)
    print_table(model, prompts, found, path.dtype, args.tokens, memory_bandwidth(here))


def print_table(
    model: GPT, prompts: Tensor, found: dict[str, list[Text]], dtype: str, tokens: int, bandwidth: float
) -> None:
    rows, ours = len(prompts), median(text.decode for text in found["ours"])
    needed = bytes_per_step(model.config, dtype, rows, PROMPT + tokens // 2)
    for name, texts in found.items():
        seconds, first = median(text.decode for text in texts), texts[0].ids
        rate = rows * (tokens - 1) / seconds
        share = needed * (tokens - 1) / seconds / bandwidth
        words = f"  {name:<14} {rate:9,.1f} tokens/s  {seconds / ours:5.2f} x our time  {share:4.0%} of the bandwidth"
        if len(first):
            prefill = rows * PROMPT / max(1e-9, median(text.prefill for text in texts))
            words += (
                f"  prefill {prefill:8,.0f} tokens/s  greedy in float32 {agreement(model, prompts[0], first[0]):4.0%}"
            )
        print(words, flush=True)
    peer = found.get("transformers")
    if peer and dtype == "float32" and not torch.equal(peer[0].ids.cpu(), found["ours"][0].ids.cpu()):
        raise SystemExit("transformers generates other tokens in float32")


if __name__ == "__main__":
    main()
