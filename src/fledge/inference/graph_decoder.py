"""The decoder for CUDA: one decode step is a CUDA graph, so that a token costs one launch instead of hundreds.

A graph is captured for each number of rows that is a power of two (and for `slots`), when it is first needed. Its
inputs are static tensors: tokens, lengths, and where each row writes. Rows beyond those that were asked for write to an
extra slot, so that they change no other. The step adds one to the lengths by itself, and they are sent to the device
only where that is not what the engine asks for.

The cache of a layer is [slots + 1, context, 2, K, D], token by token. Attention, by name:

flash    FlashAttention reads exactly the tokens that each row holds, in one graph for all lengths
sdpa     scaled_dot_product_attention with a mask, over the first 256, 512, … tokens: a graph for each of these

`compiled` fuses the small operations of a step with torch.compile, which takes up to a minute for each graph.
On a CPU the same code runs without a graph, for tests.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fledge.inference.lean import Attend, LeanGPT
from fledge.model.attention import sdpa_attention
from fledge.model.config import ModelConfig

SHORTEST_SPAN = 256


def bucket(wanted: int, smallest: int, largest: int) -> int:
    """The next power of two, within limits."""
    return min(largest, max(smallest, 1 << (wanted - 1).bit_length()))


class GraphDecoder:
    def __init__(self, model: LeanGPT, slots: int, attention: str, name: str, *, compiled: bool = False) -> None:
        self.model, self.slots, self.name = model, slots, name
        self.config: ModelConfig = model.config
        self.device: torch.device = model.device
        self.attend_rows = {"flash": self._flash, "sdpa": self._sdpa}[attention]
        self.reads_exactly = attention == "flash"
        self.step: Callable[[int, int], Tensor] = self._step
        if compiled:
            self.step = torch.compile(self._step, dynamic=False)
        context, K, D = self.config.context, self.config.kv_heads, self.config.head_width
        shape = (slots + 1, context, 2, K, D)
        layers = range(self.config.n_layer)
        self.cache = [torch.zeros(shape, dtype=model.stream, device=self.device) for _ in layers]
        self.texts = self._integers(slots + 1, context)  # tokens held, for bigrams
        self.first_rows = torch.arange(slots + 1, device=self.device) * context  # of each slot, in all tokens
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        # inputs of the graphs
        self.tokens, self.lengths, self.writes = (self._integers(slots) for _ in range(3))
        self.known_lengths: list[int] = []  # what `lengths` holds

    def _integers(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.long, device=self.device)

    @torch.inference_mode()
    def prefill(self, slot: int, start: int, ids: Tensor) -> Tensor:
        N, H, stop = len(ids), self.config.n_head, start + len(ids)
        ids = ids.to(self.device)
        first = max(0, start + 1 - self.config.attention_span)

        def attend(layer: int, heads: Tensor) -> Tensor:
            self.cache[layer][slot, start:stop] = heads[:, H:].unflatten(1, (2, -1))
            q = heads[:, :H].transpose(0, 1).unsqueeze(0)  # [1, H, N, D]
            keys, values = self.cache[layer][slot : slot + 1, first:stop].permute(2, 0, 3, 1, 4)  # each [1, K, S, D]
            y = sdpa_attention(q, keys, values, None, self.config.window, 0.0)
            return y.squeeze(0).transpose(0, 1).reshape(N, -1)

        return self.model.read(ids, start, self.texts[slot], attend)

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        return self.model.head(hidden)

    @torch.inference_mode()
    def decode(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        R, lengths = len(tokens), list(lengths)
        rows = bucket(R, 1, self.slots)
        span = self.config.context
        if not self.reads_exactly:
            span = bucket(max(lengths) + 1, SHORTEST_SPAN, self.config.context)
        self.tokens[:R] = tokens
        if lengths != self.known_lengths:
            self._send(lengths)
        logits = self._replay(rows, span)[:R]
        self.known_lengths = [length + 1 for length in lengths]
        return logits

    def _send(self, lengths: list[int]) -> None:
        R = len(lengths)
        self.lengths[:R].copy_(torch.tensor(lengths), non_blocking=True)
        if len(self.known_lengths) != R:
            self.lengths[R:] = 0
            self.writes[:R] = self.first_rows[:R]
            self.writes[R:] = self.first_rows[-1]  # the extra slot

    def _replay(self, rows: int, span: int) -> Tensor:
        if self.device.type != "cuda":
            return self.step(rows, span)
        if (rows, span) not in self.graphs:
            self.graphs[rows, span] = self._capture(rows, span)
        graph, logits = self.graphs[rows, span]
        graph.replay()
        return logits

    def _capture(self, rows: int, span: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """The steps of the warmup write the keys and values that the first replay writes again."""
        lengths, stream = self.lengths.clone(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self.step(rows, span)
                self.lengths.copy_(lengths)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            logits = self.step(rows, span)
        return graph, logits

    def _step(self, rows: int, span: int) -> Tensor:
        """One token for each row → logits [rows, V]. Reads and writes static tensors only."""
        tokens = self.tokens[:rows]
        positions = self.lengths[:rows].clamp(max=self.config.context - 1)  # also of rows that were not asked for
        writes = self.writes[:rows] + positions
        x = self.model.embed(tokens, self._previous(tokens, positions, writes), positions)
        attend = self.attend_rows(rows, span, positions)

        def keep_and_attend(layer: int, heads: Tensor) -> Tensor:
            new = heads.view(rows, -1)[:, self.config.n_head * self.config.head_width :]
            self.cache[layer].flatten(2).flatten(0, 1).index_copy_(0, writes, new)
            return attend(layer, heads)

        logits = self.model.head(self.model.hidden(x, self.model.angles(positions), keep_and_attend))
        self.lengths[:rows].add_(1)
        return logits

    def _previous(self, tokens: Tensor, positions: Tensor, writes: Tensor) -> Tensor | None:
        """The token before each of the new ones [R]; token 0 before the first. Keeps the new ones."""
        if self.model.bigram is None:
            return None
        texts = self.texts.view(-1)
        texts.index_copy_(0, writes, tokens)
        before = texts[self.first_rows[: len(tokens)] + (positions - 1).clamp(min=0)]
        return before * (positions > 0)

    def _flash(self, rows: int, span: int, positions: Tensor) -> Attend:
        """Raises where the GPU, the dtype or the width of a head has no such kernel."""
        H, window = self.config.n_head, self.config.window
        held = (positions + 1).int()
        query_starts = torch.arange(rows + 1, dtype=torch.int32, device=self.device)
        key_starts = query_starts * self.config.context
        left = -1 if window is None else window - 1
        flash: Callable[..., tuple[Tensor, ...]] = torch.ops.aten._flash_attention_forward.default

        def attend(layer: int, heads: Tensor) -> Tensor:
            keys, values = self.cache[layer].flatten(0, 1).unbind(1)  # each [tokens, K, D]
            starts, sizes = (query_starts, key_starts), (1, span)
            limits = {"window_size_left": left, "window_size_right": -1 if window is None else 0, "seqused_k": held}
            found = flash(heads[:, :H], keys, values, *starts, *sizes, 0.0, False, False, **limits)
            return found[0].reshape(rows, -1)

        return attend

    def _sdpa(self, rows: int, span: int, positions: Tensor) -> Attend:
        H, K, D = self.config.n_head, self.config.kv_heads, self.config.head_width
        mask = self.model.mask(positions, 0, span).expand(-1, K, H // K, -1)

        def attend(layer: int, heads: Tensor) -> Tensor:
            q = heads[:, :H].reshape(rows, K, H // K, D)  # the queries of a key head, as if they were several tokens
            keys, values = self.cache[layer][:rows, :span].permute(2, 0, 3, 1, 4)  # each [R, K, S, D]
            return F.scaled_dot_product_attention(q, keys, values, mask).reshape(rows, -1)

        return attend

    @torch.inference_mode()
    def recompute(self, ids: Tensor) -> Tensor:
        return self.model.next_token_logits(ids)

    @torch.inference_mode()
    def copy_prefix(self, source: int, target: int, length: int) -> None:
        for layer in self.cache:
            layer[target, :length] = layer[source, :length]
        self.texts[target, :length] = self.texts[source, :length]
