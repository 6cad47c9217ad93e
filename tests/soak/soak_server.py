"""make soak: a server of a 5M model under load and under calls that make no sense. Not collected by pytest.

    PYTHONPATH=src:tests/kit:bench python tests/soak/soak_server.py [streams] [disconnects] [fuzz]

streams       500 clients at once, each reads its text token by token: no text is lost, none differs from the same
              request alone, and /health answers meanwhile (p99 under 200 ms)
disconnects   1,000 clients that leave in the middle: no slot stays occupied, memory grows by under 5 %
fuzz          10,000 calls by the OpenAPI document, valid and not: no 5xx

The server is a process of its own, `fledge serve`, with a model of random numbers.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from fuzzing import fuzz
from served_run import ServedRun

STREAMS, TOKENS, CHECKED = 500, 60, 20
DISCONNECTS, MAX_GROWTH = 1_000, 0.05
CASES = 10_000
EXACT = ("--dtype", "float32")  # in bfloat16 a text depends on how many rows are computed together, by rounding
MAX_P99 = 0.2  # seconds
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=0)


def body(number: int) -> dict[str, Any]:
    return {"prompt": [number % 250 + 1, number // 250 + 1, 7], "max_tokens": TOKENS, "seed": number, "ignored": True}


async def read_stream(client: httpx.AsyncClient, number: int) -> tuple[str, str | None, float]:
    """→ text, finish reason, seconds to the first token"""
    text, reason, began, first = "", None, time.perf_counter(), 0.0
    async with client.stream("POST", "/v1/completions", json={**body(number), "stream": True}) as answer:
        assert answer.status_code == 200, f"status {answer.status_code}"
        done = False
        async for line in answer.aiter_lines():
            first = first or time.perf_counter() - began
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                (choice,) = json.loads(line[6:])["choices"]
                text, reason = text + choice["text"], choice["finish_reason"] or reason
    assert done, "a stream was cut"
    return text, reason, first


async def watch_health(client: httpx.AsyncClient, found: list[float]) -> None:
    while True:
        began = time.perf_counter()
        assert (await client.get("/health")).status_code == 200
        found.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)


async def streams(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=LIMITS) as client:
        health: list[float] = []
        watch, began = asyncio.create_task(watch_health(client, health)), time.perf_counter()
        found = await asyncio.gather(*(read_stream(client, number) for number in range(STREAMS)))
        seconds = time.perf_counter() - began
        if watch.done():
            watch.result()
        watch.cancel()
        assert all(reason in ("stop", "length") for _, reason, _ in found)
        for number in range(0, STREAMS, STREAMS // CHECKED):
            alone = (await client.post("/v1/completions", json=body(number))).json()["choices"][0]
            assert alone["text"] == found[number][0], f"text {number} differs from the same request alone"
    p99 = percentile(health, 0.99)
    print(f"streams: {STREAMS} of {STREAMS} complete in {seconds:.1f} s, {CHECKED} equal to the same request alone")
    print(f"/health: {len(health)} calls, median {1e3 * percentile(health, 0.5):.0f} ms, p99 {1e3 * p99:.0f} ms")
    assert p99 < MAX_P99, "/health was too slow"


def disconnects(url: str, pid: int) -> None:
    def leave(count: int) -> None:
        for number in range(count):
            with httpx.stream("POST", f"{url}/v1/completions", json={**body(number), "stream": True}) as answer:
                if number % 2:
                    next(answer.iter_raw())
        wait_until_idle(url)

    leave(DISCONNECTS // 5)  # what is allocated once
    before = memory(pid)
    leave(DISCONNECTS)
    growth = memory(pid) / before - 1
    print(f"disconnects: {DISCONNECTS} clients left, no slot occupied, memory {growth:+.1%} of {before / 1e6:.0f} MB")
    assert growth < MAX_GROWTH, "memory grew"


def wait_until_idle(url: str) -> None:
    end = time.monotonic() + 60
    while not all(
        f'fledge_{name}{{model="soak"}} 0.0' in httpx.get(f"{url}/metrics").text for name in ("running", "waiting")
    ):
        assert time.monotonic() < end, "a slot stays occupied"
        time.sleep(0.05)


def memory(pid: int) -> int:
    """Resident bytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def run_fuzz(url: str) -> None:
    began = time.perf_counter()
    statuses = fuzz(url, CASES)
    wait_until_idle(url)
    print(f"fuzz: {sum(statuses.values()):,} calls in {time.perf_counter() - began:.0f} s: {dict(statuses)}")
    assert not any(status >= 500 for status in statuses)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["streams", "disconnects", "fuzz"], metavar="PART")
    parts = parser.parse_args().parts
    with tempfile.TemporaryDirectory() as folder, ServedRun(Path(folder), "soak", "5M", *EXACT) as served:
        work: dict[str, Callable[[], object]] = {
            "streams": lambda: asyncio.run(streams(served.url)),
            "disconnects": lambda: disconnects(served.url, served.pid),
            "fuzz": lambda: run_fuzz(served.url),
        }
        for part in parts:
            work[part]()
            sys.stdout.flush()


if __name__ == "__main__":
    main()
