"""`fledge serve` with 1 to 128 clients, against llama.cpp's server (xllamacpp) with the same weights in float32.

    python bench/serve.py [--size 5M] [--clients 1 8 32 128] [--tokens 64] [--rounds 3] [--dtype float32]

Every client streams greedy completions of its own prompts, one after another. Both servers have as many slots as there
are clients, at most 32, and run as processes of their own, in turns. Printed: time to the first token, time between
tokens, tokens per second of all clients; medians over rounds. The texts of both servers must be those that the model
itself finds best: transformers' greedy text on the same export.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import torch

from common import machine, versions
from fledge.exchange.gguf import write_gguf
from served_run import ServedRun, first_line

MAX_SLOTS = 32
PROMPT = 16  # tokens
CHECKED = 8  # texts that are compared with transformers
LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, slots, context, threads = sys.argv[1], *map(int, sys.argv[2:])
params.n_ctx, params.n_parallel, params.verbosity, params.fit_params = slots * context, slots, -1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Answer:
    prompt: int
    text: str
    first: float  # seconds until the first token
    gap: float  # mean seconds between tokens
    tokens: int


@dataclass(frozen=True)
class Round:
    answers: list[Answer]
    seconds: float

    def row(self) -> tuple[float, float, float]:
        """→ milliseconds to the first token, milliseconds between tokens, tokens per second"""
        first, gap = (1e3 * median(getattr(each, key) for each in self.answers) for key in ("first", "gap"))
        return first, gap, sum(each.tokens for each in self.answers) / self.seconds


def prompt_of(number: int) -> list[int]:
    return torch.randint(300, 4000, (PROMPT,), generator=torch.Generator().manual_seed(number)).tolist()


async def ask(url: str, number: int, options: dict[str, Any]) -> Answer:
    """One streamed completion, over a socket: a client library would cost more than the server."""
    address, began = urlsplit(url), time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = json.dumps({"prompt": prompt_of(number), "temperature": 0, "stream": True, **options}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    text, tokens, first, last = "", 0, 0.0, 0.0
    async for line in reader:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            last = time.perf_counter()
            first = first or last
            text += "".join(choice["text"] for choice in event["choices"])
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    writer.close()
    if tokens != options["max_tokens"]:
        raise SystemExit(f"{url} gave {tokens} tokens instead of {options['max_tokens']}")
    return Answer(number, text, first - began, (last - first) / (tokens - 1), tokens)


async def one_round(url: str, clients: int, each: int, options: dict[str, Any]) -> Round:
    async def client(number: int) -> list[Answer]:
        return [await ask(url, number * each + i, options) for i in range(each)]

    began = time.perf_counter()
    found = await asyncio.gather(*map(client, range(clients)))
    return Round([answer for answers in found for answer in answers], time.perf_counter() - began)


def expected_texts(export: Path, tokens: int) -> list[str]:
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(export).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(export / "tokenizer.json"))
    ids = torch.tensor([prompt_of(number) for number in range(CHECKED)])
    options: dict[str, Any] = {
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return [tokenizer.decode(row[PROMPT:], clean_up_tokenization_spaces=False) for row in found]


def compare(clients: int, args: argparse.Namespace, folder: Path) -> None:
    slots = min(clients, MAX_SLOTS)
    with ServedRun(folder, "bench", args.size, "--slots", str(slots), "--dtype", args.dtype) as served:
        context = served.model.config.context
        gguf = folder / "bench.gguf"
        write_gguf(gguf, served.model, served.tokenizer, "f32", "bench")
        words = [sys.executable, "-c", LLAMA, str(gguf), *map(str, (slots, context, torch.get_num_threads()))]
        llama = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            urls = {"fledge": served.url, "llama.cpp": first_line(llama)}
            measure(urls, clients, args, expected_texts(served.export, args.tokens), served.tokenizer.end_of_text)
        finally:
            llama.communicate("")


def measure(
    urls: dict[str, str], clients: int, args: argparse.Namespace, expected: Sequence[str], end: int | None
) -> None:
    usage = {"stream_options": {"include_usage": True}, "max_tokens": args.tokens}
    options = {
        "fledge": {**usage, "logit_bias": {str(end): -100}},
        "llama.cpp": {**usage, "ignore_eos": True, "cache_prompt": False},
    }
    each = max(1, args.answers // clients)
    rounds: dict[str, list[Round]] = {name: [] for name in urls}
    for number in range(args.rounds + 1):  # the first one is not counted
        for name, url in urls.items():
            found = asyncio.run(one_round(url, clients, each, options[name]))
            if number:
                rounds[name].append(found)
    for name in urls:
        first, gap, rate = (median(values) for values in zip(*(found.row() for found in rounds[name]), strict=True))
        texts = {answer.prompt: answer.text for answer in rounds[name][-1].answers}
        known = [number for number in range(CHECKED) if number in texts]
        right = sum(texts[number] == expected[number] for number in known)
        print(
            f"{clients:>4} clients  {name:<10} first token {first:7.1f} ms   between tokens {gap:6.2f} ms"
            f"   {rate:8,.0f} tokens/s   {right} of {len(known)} texts right",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="5M")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--answers", type=int, default=128, help="of all clients in a round, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of fledge's weights")
    args = parser.parse_args()
    print(machine(), "|", versions("torch", "transformers", "xllamacpp", "uvicorn"), "|", f"{args.size}, {args.dtype}")
    for clients in args.clients:
        with tempfile.TemporaryDirectory() as folder:
            compare(clients, args, Path(folder))


if __name__ == "__main__":
    main()
