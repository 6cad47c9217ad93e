"""Choose the decoder for a model on this machine: a short measurement, made once for each shape and kept in the cache.

    decoder = choose_decoder(model, machine, slots=8, report=lambda choice: print(choice.describe()))

Each candidate path is built, compared with the model itself, and timed for `slots` rows. A path that fails, computes
something else or is slower is not taken. On a CPU the number of threads is part of a path: for a small model they
cost more time than they save. The next start with this shape measures nothing.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from fledge.core.device import DTYPES, Machine, cached_measurement, choose_dtype, has_units, set_threads
from fledge.core.errors import UserError, out_of_memory
from fledge.core.threads import is_busy
from fledge.inference.bandwidth import bytes_per_step, memory_bandwidth
from fledge.inference.decoder import Decoder
from fledge.inference.fast_decoder import FastDecoder
from fledge.inference.graph_decoder import GraphDecoder
from fledge.inference.lean import LeanGPT
from fledge.inference.linear import INT8_LINEARS, LINEARS
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT

MIN_BF16_SPEEDUP = 1.2  # on a CPU bf16 must be this many times as fast as fp32, as it is less precise
# Largest relative error of the logits, as a norm: wrong code is off by about 1.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1, "int8": 0.25}
# kind → attention, and whether the step is compiled
GRAPHS = {"CUDA graph, flash,": ("flash", False), "CUDA graph, sdpa,": ("sdpa", False)}
COMPILED_GRAPHS = {"compiled CUDA graph, flash,": ("flash", True), "compiled CUDA graph, sdpa,": ("sdpa", True)}
TRAINING_ONLY = ("dropout", "dropout_on", "init", "attention")  # settings that change nothing here
FAILED = 1e9  # seconds, or the error, of a path that does not run
CHECKED_TOKENS = 12
MEASURED_SECONDS, MEASURED_STEPS = 0.3, 30  # whichever ends first


@dataclass(frozen=True)
class Path:
    """A way to compute."""

    kind: str  # of the products: see linear.py
    dtype: str
    threads: int

    @property
    def name(self) -> str:
        return f"{self.kind} {self.dtype}"

    def __str__(self) -> str:
        return f"{self.name}, {self.threads} thread" + "s" * (self.threads != 1)


@dataclass(frozen=True)
class DecoderChoice:
    """Which path was taken, how fast it is, and why the others were not."""

    path: Path
    slots: int
    tokens_per_second: float  # of `slots` rows together
    bandwidth_share: float  # bytes of weights and cache read per second, as a share of the measured memory bandwidth
    rejected: dict[str, str] = field(default_factory=dict)  # path → reason
    divergence: float | None = None  # int8: the mean KL divergence of its distributions from the model's, in nats

    def describe(self) -> str:
        speed = f"{self.tokens_per_second:,.0f} tokens/s with {self.slots} row" + "s" * (self.slots != 1)
        share = f"{100 * self.bandwidth_share:.0f} % of the memory bandwidth"
        text = f"{self.path}: {speed}, {share}"
        return text if self.divergence is None else f"{text}, KL divergence from float32 {self.divergence:.2g}"


Report = Callable[[DecoderChoice], None]


def no_report(_: DecoderChoice) -> None: ...


def choose_decoder(
    model: GPT, machine: Machine, slots: int, dtype: str = "auto", report: Report = no_report
) -> Decoder:
    """The fastest decoder that computes what the model computes. Sets the number of threads it was measured with."""
    set_threads(None, machine.device)
    choice = decide(model, machine, slots, dtype)
    set_threads(choice.path.threads, machine.device)
    decoder = build_decoder(model, choice.path, slots)
    if choice.path.dtype == "int8":  # its error depends on the weights, so it is measured at every start
        choice = replace(choice, divergence=divergence(decoder, model))
    report(choice)
    return decoder


def build_decoder(model: GPT, path: Path, slots: int) -> FastDecoder | GraphDecoder:
    lean = build_lean(model, path)
    if path.kind in LINEARS | INT8_LINEARS:
        return FastDecoder(lean, slots, path.name)
    attention, compiled = (GRAPHS | COMPILED_GRAPHS)[path.kind]
    return GraphDecoder(lean, slots, attention, path.name, compiled=compiled)


def build_lean(model: GPT, path: Path) -> LeanGPT:
    make_linear = (LINEARS | INT8_LINEARS).get(path.kind, LINEARS["plain"])
    return LeanGPT(model, DTYPES.get(path.dtype, torch.float32), make_linear)


def decide(model: GPT, machine: Machine, slots: int, dtype: str = "auto") -> DecoderChoice:
    """Measure the candidates, or remember what was measured before."""
    paths = candidates(machine, dtype)
    shape = {name: value for name, value in asdict(model.config).items() if name not in TRAINING_ONLY}
    load = "busy" if machine.device == "cpu" and is_busy() else "free"  # another path may be the fastest then
    what = f"decoder {shape}, {slots} slots, {machine.device}, {load}, {', '.join(map(str, paths))}"
    measured = cached_measurement(what, lambda: measure(model, machine, slots, paths))
    return best(model, machine, slots, paths, measured)


def candidates(machine: Machine, dtype: str) -> list[Path]:
    """What may be tried here, the most readable first."""
    dtypes = wanted_dtypes(machine, dtype)
    if machine.device != "cpu":
        ways = ["plain", *(GRAPHS if machine.device == "cuda" else [])]
        return [Path(kind, it, machine.threads) for it in dtypes for kind in ways]
    threads = sorted({machine.threads, 1}, reverse=True)
    kinds = list(INT8_LINEARS if dtype == "int8" else LINEARS)
    return [Path(kind, it, count) for it in dtypes for kind in kinds for count in threads]


def wanted_dtypes(machine: Machine, dtype: str) -> list[str]:
    if dtype in DTYPES:
        return [choose_dtype(machine.device, dtype).value]  # refuses what the device cannot do
    if dtype == "int8" and machine.device != "cpu":
        raise UserError("int8 is for CPUs only", "use dtype auto, which takes 16 bits on a GPU")
    if dtype == "int8":
        return ["int8"]
    if dtype != "auto":
        raise UserError(f"the dtype of inference cannot be '{dtype}'", f"use auto, {', '.join(DTYPES)} or int8")
    if machine.device != "cpu":
        return [choose_dtype(machine.device).value]
    return ["float32", *(["bfloat16"] if has_units("cpu", "bfloat16") else [])]


def measure(model: GPT, machine: Machine, slots: int, paths: list[Path]) -> dict[str, float]:
    """The seconds of a step and the error of each path. Where none computes the model, that is not remembered."""
    found, ids, too_large = dict[str, float](), checked_ids(model), False
    expected, threads = reference_logits(model, ids), machine.threads
    for path in paths:
        seconds = error = FAILED
        try:
            set_threads(path.threads, machine.device)
            decoder = build_decoder(model, path, slots)
            error = relative_error(decoder_logits(decoder, ids), expected)
            seconds = step_seconds(decoder, machine)
            del decoder
        except Exception as failure:
            if out_of_memory(failure):
                too_large = True
                gc.collect()
        finally:
            set_threads(threads, machine.device)
        found |= {f"{path} seconds": seconds, f"{path} error": error}
    if not any(is_usable(path, found) for path in paths):
        if too_large:
            raise MemoryError
        raise UserError(f"this machine cannot run this model in {paths[0].dtype}", "use dtype float32, or auto")
    return found


def is_usable(path: Path, measured: dict[str, float]) -> bool:
    return measured[f"{path} seconds"] < FAILED and measured[f"{path} error"] <= TOLERANCE[path.dtype]


def best(model: GPT, machine: Machine, slots: int, paths: list[Path], measured: dict[str, float]) -> DecoderChoice:
    rejected, seconds = dict[str, str](), dict[Path, float]()
    for path in paths:
        spent, error = measured[f"{path} seconds"], measured[f"{path} error"]
        if is_usable(path, measured):
            seconds[path] = spent
            rejected[str(path)] = f"{slots / spent:,.0f} tokens/s"
        elif FAILED in (spent, error):
            rejected[str(path)] = "failed"
        else:
            rejected[str(path)] = f"its logits are off by {100 * error:.1f} %"
    handicap = {path: 1.0 if path.dtype == paths[0].dtype else MIN_BF16_SPEEDUP for path in paths}
    taken = min(seconds, key=lambda path: seconds[path] * handicap[path])
    del rejected[str(taken)]
    read = bytes_per_step(model.config, taken.dtype, slots, measured_length(model.config) + 1)
    share = read / seconds[taken] / memory_bandwidth(machine)
    return DecoderChoice(taken, slots, slots / seconds[taken], share, rejected)


def checked_ids(model: GPT) -> Tensor:
    generator, count = torch.Generator().manual_seed(0), min(CHECKED_TOKENS, model.config.context)
    ids = torch.randint(model.head.out_features, (count,), generator=generator)
    return ids.to(model.embed.weight.device)


@torch.no_grad()
def reference_logits(model: GPT, ids: Tensor) -> Tensor:
    """[N, V], by the model itself, in float32."""
    was_training = model.training
    model.eval()
    logits = model(ids[None])[0]
    model.train(was_training)
    return logits.float()


def decoder_logits(decoder: Decoder, ids: Tensor) -> Tensor:
    """The same, of which the first half is prefilled, and the rest decoded in the last slot among others."""
    half, slot = len(ids) // 2, decoder.slots - 1
    logits = [decoder.head(decoder.prefill(slot, 0, ids[:half]))] if half else []
    for length in range(half, len(ids)):
        tokens = ids[length].expand(decoder.slots).clone()
        logits.append(decoder.decode(tokens, [0] * slot + [length])[slot:].clone())
    return torch.cat(logits).float()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """0 for a model whose own logits are not finite: sampling reports that."""
    if not bool(expected.isfinite().all()):
        return 0.0
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-9))
    return error if math.isfinite(error) else FAILED / 2


def divergence(decoder: Decoder, model: GPT) -> float:
    ids = checked_ids(model)
    found, expected = decoder_logits(decoder, ids).log_softmax(-1), reference_logits(model, ids).log_softmax(-1)
    return float((expected.exp() * (expected - found)).sum(-1).mean())


def measured_length(config: ModelConfig) -> int:
    """The length of the rows in the measurement."""
    return min(64, config.context // 2)


def step_seconds(decoder: Decoder, machine: Machine) -> float:
    """The fastest of some steps: other programs only make a step slower."""
    lengths = [measured_length(decoder.config)] * decoder.slots
    tokens = torch.zeros(decoder.slots, dtype=torch.long, device=decoder.device)
    fastest, end, steps = math.inf, math.inf, 0
    while (time.perf_counter() < end and steps < MEASURED_STEPS) or steps < 3:
        begun = time.perf_counter()
        tokens = decoder.decode(tokens, lengths).argmax(-1)
        synchronize(machine)
        now = time.perf_counter()
        if steps == 0:  # warmup
            end = now + MEASURED_SECONDS
        else:
            fastest = min(fastest, now - begun)
        steps += 1
    return fastest


def synchronize(machine: Machine) -> None:
    if machine.device == "cuda":
        torch.cuda.synchronize()
    elif machine.device == "mps":
        torch.mps.synchronize()
