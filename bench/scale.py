"""What changes at 1, 7 and 70 billion parameters on 1, 8, 64 and 1,024 GPUs: prints the tables of docs/scale.md.

Arithmetic only: no torch, no GPU. What fledge holds, sends and saves is checked against real processes, small ones, in
tests/journey/parallel/test_scale.py. What a GPU, a wire or a disk can do is assumed, and stands in ASSUMED.
"""

import itertools
import math
from dataclasses import dataclass, replace

from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.model.flops import BFLOAT16, FLOAT32

G = 1e9
# name: (number, its factor, unit, source). Everything that is not fledge's own arithmetic, and nothing else.
ASSUMED: dict[str, tuple[float, float, str, str]] = {
    "peak": (989, 1e12, "TFLOP/s", "NVIDIA's data sheet of the H100 SXM: bf16, dense"),
    "share": (0.40, 1, "of the peak", "the Llama 3 report (2024): 38 to 43 % on H100; fledge itself is not measured"),
    "memory": (80, G, "GB a GPU", "the same data sheet"),
    "usable": (0.90, 1, "of the memory", "a guess: the rest is CUDA's own, and gaps between tensors"),
    "node": (8, 1, "GPUs", "the usual server of H100s"),
    "nvlink": (360, G, "GB/s each way", "the data sheet says 450; a guess that a ring reaches 80 % of it"),
    "network": (320, G, "GB/s a machine", "eight cards of 400 Gbit/s are 400; the same guess. A ring enters it once"),
    "hop": (3, 1e-6, "µs", "a guess: from one rank to the next, NVLink and network mixed"),
    "bucket": (25, 2**20, "MiB", "torch's default for DDP"),
    "pcie": (10, G, "GB/s", "a guess: GPU to memory that is not pinned; the wire itself has 64"),
    "writer": (2, G, "GB/s a machine", "a guess: one client of a parallel file system"),
    "files": (100, G, "GB/s", "a guess: that file system as a whole"),
    "hash": (1.5, G, "GB/s", "a guess: SHA-256 on a server's core; 0.3 to 0.4 on our two, busy ones"),
    "between": (50_000, 3600, "hours a GPU", "the Llama 3 report: 419 unexpected stops of 16,384 GPUs in 54 days"),
    "restart": (5, 60, "minutes", "a guess: to notice, to take another machine, to start every process"),
    "text": (20, 1, "tokens a parameter", "Chinchilla (2022), as model.size takes it; two bytes each"),
    "batch": (2048, 1, "sequences a step", "of 2,048 tokens: 4.2 million, as is usual for such models"),
}
A = {name: number * factor for name, (number, factor, _, _) in ASSUMED.items()}

# Llama's shapes (3.2 1B, 1 7B, 3 70B), of the parts that the modern-* presets have, with their vocabulary and context.
BASE = ModelConfig(context=2048, vocab_size=32_768)
MODELS = {
    "1B": replace(BASE, n_layer=16, n_head=32, n_kv_head=8, n_embd=2048, mlp_width=8192),
    "7B": replace(BASE, n_layer=32, n_head=32, n_embd=4096, mlp_width=11_008),
    "70B": replace(BASE, n_layer=80, n_head=64, n_kv_head=8, n_embd=8192, mlp_width=28_672),
}
SIZES = (1, 8, 64, 1024)
# What train.parallel has; and lean, which is not built: docs/scale.md says what it would be, at its end.
WAYS = DDP, FSDP, LEAN = "ddp", "fsdp", "lean"


@dataclass(frozen=True)
class Plan:
    """One model, trained one way on so many GPUs, each of which computes so many sequences at once."""

    model: ModelConfig
    way: str
    size: int
    micro_batch: int
    batch: int = int(A["batch"])

    @property
    def parts(self) -> int:
        """Among how many ranks a weight is divided."""
        return 1 if self.way == DDP else self.size

    @property
    def micro_batches(self) -> int:
        return self.batch // self.size // self.micro_batch

    @property
    def bandwidth(self) -> float:
        return A["nvlink"] if self.size <= A["node"] else A["network"]

    @property
    def machines(self) -> int:
        return math.ceil(self.size / A["node"])

    def held(self) -> dict[str, float]:
        """On each rank at the peak: at the end of the last micro-batch's way forward. Before the first way back there
        are no gradients, so with one micro-batch it is that much less."""
        N, parts, lean = flops.parameters(self.model), self.parts, self.way == LEAN
        block = flops.parameters(replace(self.model, n_layer=self.model.n_layer + 1)) - N
        tables = N - self.model.n_layer * block
        borrowed = (BFLOAT16 if lean else FLOAT32) * (tables + 2 * block)  # one at work, and the next on its way
        return {
            "weights": FLOAT32 * N / parts,
            "gradients": FLOAT32 * N / (parts if lean or self.micro_batches == 1 else 1),
            "optimiser": 2 * FLOAT32 * N / parts,
            "copies": 0 if lean else BFLOAT16 * flops.matrix_parameters(self.model),  # autocast's, for the way back
            "borrowed": borrowed if parts > 1 else 0,
            "activations": self._activations(),
        }

    def _activations(self) -> float:
        kept = replace(self.model, n_layer=1) if self.way == LEAN else self.model
        entrances = FLOAT32 * self.micro_batch * self.model.context * self.model.n_embd * (self.model.n_layer - 1)
        chunked = (self.model.vocab_size or 0) >= flops.LARGE_VOCABULARY
        blocks = flops.activation_bytes(kept, self.micro_batch, BFLOAT16, chunked=chunked)
        chunk = flops.chunk_bytes(self.model, BFLOAT16) if chunked else 0
        return blocks + chunk + entrances * (self.way == LEAN)

    def fits(self) -> bool:
        return sum(self.held().values()) <= A["usable"] * A["memory"]

    def carried(self) -> dict[str, float]:
        """By the collectives of one step: bytes of the tensors, whole."""
        N, M = flops.parameters(self.model), self.micro_batches
        if self.way == DDP:
            return {"all-reduce": FLOAT32 * N}
        if self.way == FSDP:
            return {"all-gather": 2 * M * FLOAT32 * N, "reduce-scatter": FLOAT32 * N}
        return {"all-gather": 2 * M * BFLOAT16 * N, "reduce-scatter": M * FLOAT32 * N}

    def sent(self) -> float:
        """By each rank, which has its own part already; to reduce all is to scatter and to gather."""
        return sum(self.carried().values()) * (2 if self.way == DDP else 1) * (self.size - 1) / self.size

    def talking(self) -> float:
        """Bytes, and hops: around a ring, or up and down a tree where all is reduced."""
        buckets = math.ceil(FLOAT32 * flops.parameters(self.model) / A["bucket"])
        gathers = (2 * self.micro_batches + (self.micro_batches if self.way == LEAN else 1)) * (self.model.n_layer + 1)
        hops = buckets * 2 * math.log2(self.size) if self.way == DDP else gathers * (self.size - 1)
        return self.sent() / self.bandwidth + hops * A["hop"]

    def alone(self) -> float:
        """So many GPUs that never talk and compute nothing twice."""
        tokens = self.batch / self.size * self.model.context
        return tokens * flops.training_flops(self.model) / (A["peak"] * A["share"])

    def computing(self) -> float:
        return self.alone() * (4 / 3 if self.way == LEAN else 1)

    def step(self, hidden: bool = True) -> float:
        """ddp can talk while it computes only on the last way back, which is two thirds of a micro-batch."""
        beside = self.computing() * (2 / 3 / self.micro_batches if self.way == DDP else 1)
        return self.computing() + max(0, self.talking() - beside * hidden)

    def checkpoint(self) -> float:
        """Bytes: weights, and two memories of the optimiser. Gradients are not kept."""
        return 3 * FLOAT32 * flops.parameters(self.model)

    def whole(self) -> tuple[float, float]:
        """Training stands still while the first rank gathers and copies; then a thread of it writes and hashes."""
        gathered = self.checkpoint() * (self.parts - 1) / self.parts / self.bandwidth
        return gathered + self.checkpoint() / A["pcie"], self.checkpoint() * (1 / A["writer"] + 1 / A["hash"])

    def in_parts(self) -> tuple[float, float]:
        """All write; the first hashes every file. Training stands still for both."""
        hashing = self.checkpoint() / A["hash"] / (self.size if self.way == LEAN else 1)
        return self.checkpoint() / self.disks() + hashing, 0

    def disks(self) -> float:
        return min(A["files"], self.machines * A["writer"])

    def saving(self) -> tuple[float, float]:
        return self.whole() if self.parts == 1 else self.in_parts()

    def interval(self) -> float:
        """Between saves: Young's and Daly's. One must be on the disk before the next is taken."""
        held, beside = self.saving()
        return max(math.sqrt(2 * held * A["between"] / self.size), held + beside)

    def way_back(self) -> float:
        """Every machine reads every file. The first rank hashes a checkpoint three times; it hashes the text, and then
        the others do."""
        S, text = self.checkpoint(), 2 * A["text"] * flops.parameters(self.model)
        readers, hashed = (1, (3 * S + text) / self.size) if self.way == LEAN else (self.machines, 3 * S + 2 * text)
        return A["restart"] + readers * (S + text) / self.disks() + hashed / A["hash"]

    def lost(self) -> float:
        """Share of time: saves; and each failure costs half an interval, what was not on the disk yet, the way back."""
        held, beside = self.saving()
        return held / self.interval() + (self.interval() / 2 + beside + self.way_back()) * self.size / A["between"]


def planned(name: str, way: str, size: int) -> Plan:
    """With as many sequences at once as fit: a power of two, and one where none fits."""
    powers = [2**k for k in range(int(math.log2(A["batch"] / size)), -1, -1)]
    plans = [Plan(MODELS[name], DDP if size == 1 and way == FSDP else way, size, power) for power in powers]
    return next((plan for plan in plans if plan.fits()), plans[-1])


def table(columns: str, rows: list[list[str]]) -> str:
    return "\n".join(f"| {line} |" for line in (columns, " | ".join("---" for _ in rows[0]), *map(" | ".join, rows)))


def short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}" if number >= 0.1 else f"{number:.2g}"


def span(seconds: float) -> str:
    units = {"days": 86_400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3}
    unit = next((unit for unit, length in units.items() if seconds >= length), "s")
    return f"{short(seconds / units[unit])} {unit}"


def assumptions() -> str:
    rows = [[name, f"{number:,g} {unit}", source] for name, (number, _, unit, source) in ASSUMED.items()]
    return table("name | value | source", rows)


def models() -> str:
    rows = []
    for name, model in MODELS.items():
        work = flops.training_flops(model) * model.context * A["batch"]
        size = Plan(model, DDP, 1, 1).checkpoint()
        shape = f"{model.n_layer} × {model.n_embd:,}"
        rows.append([name, f"{flops.parameters(model):,}", shape, f"{work / 1e15:,.0f}", short(size / G)])
    return table("model | parameters | layers × width | PFLOP of a step | GB of a checkpoint", rows)


def memory() -> str:
    rows = []
    for name, size in itertools.product(MODELS, SIZES):
        way = DDP if size == 1 else FSDP
        plan, lean = planned(name, way, size), planned(name, LEAN, size)
        together = [f"{short(sum(p.held().values()) / G)}{'' if p.fits() else ': too much'}" for p in (plan, lean)]
        cells = [str(plan.micro_batch), *(short(held / G) for held in plan.held().values()), f"**{together[0]}**"]
        rows.append([f"{name} {way} {size:,}", *cells, f"{together[1]} ({lean.micro_batch})" if way == FSDP else ""])
    return table(f"GB of a rank | at once | {' | '.join(plan.held())} | together | lean (at once)", rows)


def steps() -> str:
    def cells(plan: Plan) -> list[str]:
        if not plan.fits():
            return ["–"] * 4
        share = [f"{100 * plan.alone() / plan.step(hidden):.0f}" for hidden in (False, True)]
        return [short(plan.sent() / G), span(plan.talking()), span(plan.step()), "–".join(dict.fromkeys(share)) + " %"]

    rows = []
    for name, size in itertools.product(MODELS, SIZES):
        plans = (planned(name, way, size) for way in WAYS)
        rows.append([f"{name} {size:,}", *itertools.chain(*map(cells, plans))])
    return table("GPUs" + "".join(f" | {way}: GB sent | talking | step | efficiency" for way in WAYS), rows)


def saves() -> str:
    rows = []
    for name, size in itertools.product(MODELS, SIZES):
        plan = next((p for way in WAYS if (p := planned(name, way, size)).fits()), None)
        if plan is not None:
            held = [*map(span, plan.whole()), span(plan.in_parts()[0]) if plan.parts > 1 else "–"]
            times = map(span, (A["between"] / size, plan.way_back(), plan.interval()))
            ends = [f"{plan.interval() / plan.step():,.0f}", f"{100 * plan.lost():.2g} %"]
            rows.append([f"{name} {plan.way} {size:,}", *held, *times, *ends])
    return table("GPUs | whole: held | beside | in parts: held | failures | way back | interval | steps | lost", rows)


TABLES = (assumptions, models, memory, steps, saves)

if __name__ == "__main__":
    print("\n\n".join(made() for made in TABLES))
