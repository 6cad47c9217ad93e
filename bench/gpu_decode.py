"""What `make gpu PART=decode` measures: one path of the decoder, the choice, and transformers."""

import time
from statistics import median
from typing import Any

from torch import Tensor

import decode
from fledge.core.device import Machine
from fledge.inference import choose_decoder as choice
from fledge.model.gpt import GPT


def measure_path(model: GPT, kind: str, prompts: Tensor, count: int, here: Machine) -> dict[str, Any]:
    begun, rows = time.perf_counter(), len(prompts)
    decoder = choice.build_decoder(model, choice.Path(kind, here.dtype, here.threads), rows)
    ids = choice.checked_ids(model)
    error = choice.relative_error(choice.decoder_logits(decoder, ids), choice.reference_logits(model, ids))
    decode.greedy(decoder, prompts, count, here)  # captures all graphs
    ready = time.perf_counter() - begun
    texts = [decode.greedy(decoder, prompts, count, here) for _ in range(3)]
    rate = rows * (count - 1) / median(text.decode for text in texts)
    best = min(decode.agreement(model, prompts[row], texts[-1].ids[row]) for row in (0, rows - 1))
    speed = {"tokens_per_second": rate, "prefill_seconds": texts[-1].prefill, "ready_seconds": ready}
    return {**speed, "error": error, "best_tokens": best}


def chosen_path(model: GPT, here: Machine, rows: int) -> dict[str, Any]:
    found: list[choice.DecoderChoice] = []
    begun = time.perf_counter()
    choice.choose_decoder(model, here, rows, here.dtype, found.append)
    seconds = time.perf_counter() - begun
    return {"chosen": found[0].describe(), "rejected": str(found[0].rejected), "seconds": seconds}


def measure_peer(model: GPT, prompts: Tensor, count: int, here: Machine) -> dict[str, Any]:
    peer = decode.transformers_model(model).to(here.torch_dtype)
    texts = [decode.transformers_greedy(peer, prompts, count, here) for _ in range(2)]
    return {"tokens_per_second": len(prompts) * (count - 1) / texts[-1].decode}
