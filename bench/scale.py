"""Memory, communication and checkpoints at 1, 7 and 70 billion parameters on 1, 8, 64 and 1,024 GPUs, on paper.

    python bench/scale.py        prints the tables of docs/scale.md

Arithmetic only: no torch, no GPU. What fledge holds, sends and saves is checked against small, real processes in
tests/journey/parallel/test_scale.py. What a GPU, a network or a disk can do is assumed, in ASSUMED.
"""

import itertools
import math
from dataclasses import dataclass, replace

from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.model.flops import BFLOAT16, FLOAT32

G = 1e9
# name: (number, factor, unit, source). All inputs that are not fledge's own arithmetic.
ASSUMED: dict[str, tuple[float, float, str, str]] = {
    "peak": (989, 1e12, "TFLOP/s", "NVIDIA's data sheet of the H100 SXM: bf16, dense"),
    "mfu": (0.40, 1, "of the peak", "the Llama 3 report (2024): 38 to 43 % on H100; not measured for fledge"),
    "memory": (80, G, "GB per GPU", "the same data sheet"),
    "usable": (0.90, 1, "of the memory", "a guess: the rest is the CUDA context and fragmentation"),
    "node": (8, 1, "GPUs", "the usual H100 server"),
    "nvlink": (360, G, "GB/s each way", "the data sheet says 450; a guess: a ring reaches 80 % of it"),
    "network": (320, G, "GB/s per machine", "eight 400 Gbit/s cards are 400; the same guess. A ring crosses it once"),
    "hop": (3, 1e-6, "µs", "a guess: latency from rank to rank, NVLink and network mixed"),
    "bucket": (25, 2**20, "MiB", "torch's default for DDP"),
    "pcie": (10, G, "GB/s", "a guess: GPU to unpinned memory; the bus itself has 64"),
    "client": (2, G, "GB/s per machine", "a guess: one client of a parallel file system"),
    "storage": (100, G, "GB/s", "a guess: that file system as a whole"),
    "hash": (1.5, G, "GB/s", "a guess: SHA-256 on one server core; 0.3 to 0.4 measured on a small, busy machine"),
    "mtbf": (50_000, 3600, "hours per GPU", "the Llama 3 report: 419 unexpected stops of 16,384 GPUs in 54 days"),
    "restart": (5, 60, "minutes", "a guess: detect the failure, replace the machine, start all processes"),
    "tokens": (20, 1, "per parameter", "Chinchilla (2022), as for model.size; two bytes each"),
    "batch": (2048, 1, "sequences per step", "of 2,048 tokens: 4.2 million, as usual for such models"),
}
A = {name: number * factor for name, (number, factor, _, _) in ASSUMED.items()}

# The shapes of Llama (3.2 1B, 1 7B, 3 70B) with the architecture, vocabulary and context of the modern-* presets.
BASE = ModelConfig(context=2048, vocab_size=32_768)
MODELS = {
    "1B": replace(BASE, n_layer=16, n_head=32, n_kv_head=8, n_embd=2048, mlp_width=8192),
    "7B": replace(BASE, n_layer=32, n_head=32, n_embd=4096, mlp_width=11_008),
    "70B": replace(BASE, n_layer=80, n_head=64, n_kv_head=8, n_embd=8192, mlp_width=28_672),
}
SIZES = (1, 8, 64, 1024)
# The values of train.parallel; and "lean", FSDP with the changes that docs/scale.md proposes, which is not built.
STRATEGIES = DDP, FSDP, LEAN = "ddp", "fsdp", "lean"


@dataclass(frozen=True)
class Plan:
    """One model, trained with one strategy on `world_size` GPUs, with `micro_batch` sequences at once on each."""

    model: ModelConfig
    strategy: str
    world_size: int
    micro_batch: int
    batch: int = int(A["batch"])

    @property
    def shards(self) -> int:
        """Into how many parts a weight is divided."""
        return 1 if self.strategy == DDP else self.world_size

    @property
    def micro_batches(self) -> int:
        return self.batch // self.world_size // self.micro_batch

    @property
    def bandwidth(self) -> float:
        return A["nvlink"] if self.world_size <= A["node"] else A["network"]

    @property
    def machines(self) -> int:
        return math.ceil(self.world_size / A["node"])

    def memory(self) -> dict[str, float]:
        """Bytes on each rank at the peak, which is the end of the last forward pass of a step.

        With one micro-batch there are no gradients yet at that moment, so the sum is too high by them.
        """
        N, shards, lean = flops.parameter_count(self.model), self.shards, self.strategy == LEAN
        block = flops.parameter_count(replace(self.model, n_layer=self.model.n_layer + 1)) - N
        tables = N - self.model.n_layer * block
        gathered = (BFLOAT16 if lean else FLOAT32) * (tables + 2 * block)  # the current block, and the next, prefetched
        return {
            "weights": FLOAT32 * N / shards,
            "gradients": FLOAT32 * N / (shards if lean or self.micro_batches == 1 else 1),
            "optimizer": 2 * FLOAT32 * N / shards,
            "bf16 copies": 0 if lean else BFLOAT16 * flops.matrix_parameters(self.model),  # autocast's, for backward
            "gathered": gathered if shards > 1 else 0,
            "activations": self._activations(),
        }

    def _activations(self) -> float:
        kept = replace(self.model, n_layer=1) if self.strategy == LEAN else self.model
        inputs = FLOAT32 * self.micro_batch * self.model.context * self.model.n_embd * (self.model.n_layer - 1)
        chunked = (self.model.vocab_size or 0) >= flops.LARGE_VOCABULARY
        blocks = flops.activation_bytes(kept, self.micro_batch, BFLOAT16, chunked=chunked)
        chunk = flops.chunk_bytes(self.model, BFLOAT16) if chunked else 0
        return blocks + chunk + inputs * (self.strategy == LEAN)

    def fits(self) -> bool:
        return sum(self.memory().values()) <= A["usable"] * A["memory"]

    def collectives(self) -> dict[str, float]:
        """Bytes of the full tensors in the collectives of one step."""
        N, M = flops.parameter_count(self.model), self.micro_batches
        if self.strategy == DDP:
            return {"all-reduce": FLOAT32 * N}
        if self.strategy == FSDP:
            return {"all-gather": 2 * M * FLOAT32 * N, "reduce-scatter": FLOAT32 * N}
        return {"all-gather": 2 * M * BFLOAT16 * N, "reduce-scatter": M * FLOAT32 * N}

    def sent(self) -> float:
        """Bytes that each rank sends in a step. An all-reduce is a reduce-scatter and an all-gather."""
        factor = 2 if self.strategy == DDP else 1
        return sum(self.collectives().values()) * factor * (self.world_size - 1) / self.world_size

    def communication(self) -> float:
        """Seconds of a step: bytes over bandwidth, and hops around a ring, or up and down a tree for an all-reduce."""
        buckets = math.ceil(FLOAT32 * flops.parameter_count(self.model) / A["bucket"])
        scatters = self.micro_batches if self.strategy == LEAN else 1
        gathers = (2 * self.micro_batches + scatters) * (self.model.n_layer + 1)
        hops = buckets * 2 * math.log2(self.world_size) if self.strategy == DDP else gathers * (self.world_size - 1)
        return self.sent() / self.bandwidth + hops * A["hop"]

    def ideal(self) -> float:
        """Seconds of a step without communication and recomputation."""
        tokens = self.batch / self.world_size * self.model.context
        return tokens * flops.training_flops(self.model) / (A["peak"] * A["mfu"])

    def computation(self) -> float:
        return self.ideal() * (4 / 3 if self.strategy == LEAN else 1)

    def step(self, overlap: bool = True) -> float:
        """Seconds. DDP overlaps with the last backward pass only, which is two thirds of a micro-batch."""
        overlapped = self.computation() * (2 / 3 / self.micro_batches if self.strategy == DDP else 1)
        return self.computation() + max(0, self.communication() - overlapped * overlap)

    def checkpoint(self) -> float:
        """Bytes: the weights and the two moments of AdamW."""
        return 3 * FLOAT32 * flops.parameter_count(self.model)

    def full_save(self) -> tuple[float, float]:
        """Seconds that training is blocked while rank 0 gathers and copies; and those of its thread that writes."""
        gathered = self.checkpoint() * (self.shards - 1) / self.shards / self.bandwidth
        return gathered + self.checkpoint() / A["pcie"], self.checkpoint() * (1 / A["client"] + 1 / A["hash"])

    def sharded_save(self) -> tuple[float, float]:
        """All ranks write, then rank 0 hashes every file; training is blocked for both."""
        hashing = self.checkpoint() / A["hash"] / (self.world_size if self.strategy == LEAN else 1)
        return self.checkpoint() / self.storage_bandwidth() + hashing, 0

    def storage_bandwidth(self) -> float:
        return min(A["storage"], self.machines * A["client"])

    def save(self) -> tuple[float, float]:
        return self.full_save() if self.shards == 1 else self.sharded_save()

    def interval(self) -> float:
        """Seconds between saves, by Young and Daly; a save must be on disk before the next begins."""
        blocked, background = self.save()
        return max(math.sqrt(2 * blocked * A["mtbf"] / self.world_size), blocked + background)

    def recovery(self) -> float:
        """Seconds until training continues after a failure.

        Every machine reads every file. Rank 0 hashes a checkpoint three times; it hashes the text, then the others do.
        """
        S, text = self.checkpoint(), 2 * A["tokens"] * flops.parameter_count(self.model)
        readers, hashed = self.machines, 3 * S + 2 * text
        if self.strategy == LEAN:
            readers, hashed = 1, (3 * S + text) / self.world_size
        return A["restart"] + readers * (S + text) / self.storage_bandwidth() + hashed / A["hash"]

    def lost(self) -> float:
        """Share of the time: the saves, and for each failure half an interval, a save in progress, and the recovery."""
        blocked, background = self.save()
        return (
            blocked / self.interval()
            + (self.interval() / 2 + background + self.recovery()) * self.world_size / A["mtbf"]
        )


def largest_plan(name: str, strategy: str, world_size: int) -> Plan:
    """The plan with the largest micro-batch that fits, a power of two; 1 if none does."""
    strategy = DDP if world_size == 1 and strategy == FSDP else strategy
    powers = [2**k for k in range(int(math.log2(A["batch"] / world_size)), -1, -1)]
    plans = [Plan(MODELS[name], strategy, world_size, power) for power in powers]
    return next((plan for plan in plans if plan.fits()), plans[-1])


def table(columns: str, rows: list[list[str]]) -> str:
    return "\n".join(f"| {line} |" for line in (columns, " | ".join("---" for _ in rows[0]), *map(" | ".join, rows)))


def short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}" if number >= 0.1 else f"{number:.2g}"


def duration(seconds: float) -> str:
    units = {"days": 86_400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3}
    unit = next((unit for unit, length in units.items() if seconds >= length), "s")
    return f"{short(seconds / units[unit])} {unit}"


def assumption_table() -> str:
    rows = [[name, f"{number:,g} {unit}", source] for name, (number, _, unit, source) in ASSUMED.items()]
    return table("name | value | source", rows)


def model_table() -> str:
    rows = []
    for name, model in MODELS.items():
        work = flops.training_flops(model) * model.context * A["batch"]
        size = Plan(model, DDP, 1, 1).checkpoint()
        shape = f"{model.n_layer} × {model.n_embd:,}"
        rows.append([name, f"{flops.parameter_count(model):,}", shape, f"{work / 1e15:,.0f}", short(size / G)])
    return table("model | parameters | layers × width | PFLOP per step | GB per checkpoint", rows)


def memory_table() -> str:
    rows = []
    for name, size in itertools.product(MODELS, SIZES):
        strategy = DDP if size == 1 else FSDP
        plan, lean = largest_plan(name, strategy, size), largest_plan(name, LEAN, size)
        totals = [f"{short(sum(p.memory().values()) / G)}{'' if p.fits() else ': too much'}" for p in (plan, lean)]
        cells = [str(plan.micro_batch), *(short(part / G) for part in plan.memory().values()), f"**{totals[0]}**"]
        last = f"{totals[1]} ({lean.micro_batch})" if strategy == FSDP else ""
        rows.append([f"{name} {strategy} {size:,}", *cells, last])
    columns = " | ".join(plan.memory())
    return table(f"GB per rank | micro-batch | {columns} | total | lean (micro-batch)", rows)


def step_table() -> str:
    def cells(plan: Plan) -> list[str]:
        if not plan.fits():
            return ["–"] * 4
        share = [f"{100 * plan.ideal() / plan.step(overlap):.0f}" for overlap in (False, True)]
        seconds = (duration(plan.communication()), duration(plan.step()))
        return [short(plan.sent() / G), *seconds, "–".join(dict.fromkeys(share)) + " %"]

    rows = []
    for name, size in itertools.product(MODELS, SIZES):
        plans = (largest_plan(name, strategy, size) for strategy in STRATEGIES)
        rows.append([f"{name} {size:,}", *itertools.chain(*map(cells, plans))])
    columns = "".join(f" | {strategy}: GB sent | communication | step | efficiency" for strategy in STRATEGIES)
    return table(f"GPUs{columns}", rows)


def save_table() -> str:
    rows = []
    for name, size in itertools.product(MODELS, SIZES):
        plan = next((p for strategy in STRATEGIES if (p := largest_plan(name, strategy, size)).fits()), None)
        if plan is not None:
            sharded = duration(plan.sharded_save()[0]) if plan.shards > 1 else "–"
            times = map(duration, (A["mtbf"] / size, plan.recovery(), plan.interval()))
            ends = [f"{plan.interval() / plan.step():,.0f}", f"{100 * plan.lost():.2g} %"]
            rows.append([f"{name} {plan.strategy} {size:,}", *map(duration, plan.full_save()), sharded, *times, *ends])
    columns = "full: blocked | background | sharded: blocked | failure every | recovery | interval | steps | lost"
    return table(f"GPUs | {columns}", rows)


TABLES = (assumption_table, model_table, memory_table, step_table, save_table)

if __name__ == "__main__":
    print("\n\n".join(make() for make in TABLES))
