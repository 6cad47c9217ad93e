"""A GPT reduced to what decoding needs: a list of functions, built once from the modules, without their overhead.

    N  tokens      H  query heads             D  width of a head
    C  width       K  key/value heads

Queries, keys and values come from one product. Residual stream, norms, rotation and attention compute in `stream`; only
the matrix products use the dtype of the weights. On a CPU the stream is float32: that costs little there, is more
precise, and attention for one token is several times as fast in float32 as in bfloat16.
`GPT` is the reference implementation; what both share, such as the row of a bigram, is taken from its modules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fledge.inference.linear import Linear, MakeLinear, make_plain
from fledge.model.attention import Attention, sdpa_attention
from fledge.model.bigram import Bigram
from fledge.model.block import Block
from fledge.model.gpt import GPT
from fledge.model.head import padding
from fledge.model.mlp import MLP, SwigluMLP
from fledge.model.positions import LearnedPositions, Rotary, SinusoidalPositions

Function = Callable[[Tensor], Tensor]
# layer, heads [N, H + 2K, D] → [N, H · D]: keeps the new keys and values, and attends
Attend = Callable[[int, Tensor], Tensor]

ACTIVATIONS: dict[str, Function] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square_(),
}


@dataclass(frozen=True)
class LeanBlock:
    """The parts of a block; the subclasses put them in order, as those of model/block.py do."""

    attention_norm: Function
    qkv: Linear  # [N, C] → [N, (H + 2K) · D]
    qk_norm: Function | None  # [N, H + K, D]
    output: Linear
    mlp_norm: Function
    mlp: Function

    def __call__(self, x: Tensor, attention: Function) -> Tensor:
        """x [N, C], overwritten → [N, C]. attention: of this block, from its input to what it adds."""
        raise NotImplementedError


class LeanPreNorm(LeanBlock):
    def __call__(self, x: Tensor, attention: Function) -> Tensor:
        x.add_(attention(self.attention_norm(x)))
        return x.add_(self.mlp(self.mlp_norm(x)))


class LeanPostNorm(LeanBlock):
    def __call__(self, x: Tensor, attention: Function) -> Tensor:
        x = self.attention_norm(x.add_(attention(x)))
        return self.mlp_norm(x.add_(self.mlp(x)))


class LeanNormInOut(LeanBlock):
    def __call__(self, x: Tensor, attention: Function) -> Tensor:
        x = self.attention_norm(x)
        x.add_(attention(x))
        return self.mlp_norm(x.add_(self.mlp(x)))


LEAN_BLOCKS: dict[str, type[LeanBlock]] = {
    "pre_norm": LeanPreNorm,
    "post_norm": LeanPostNorm,
    "norm_in_out": LeanNormInOut,
}


class LeanGPT:
    def __init__(self, model: GPT, dtype: torch.dtype, make_linear: MakeLinear) -> None:
        self.config = config = model.config
        assert config.lora is None, "adapters must be merged first: merged_copy"
        self.device = model.embed.weight.device
        self.stream = torch.float32 if self.device.type == "cpu" else dtype
        self.heads = config.n_head + 2 * config.kv_heads
        self.rotated = config.n_head + config.kv_heads  # the heads of queries and keys
        self.dtype, self.make_linear = dtype, make_linear
        self.tensors: list[Tensor] = []  # all weights that plain products use, in the order in which they are built
        self.table = self._streamed(model.embed.weight)
        self.bigram = model.bigram if isinstance(model.bigram, Bigram) else None
        self.bigram_table = self._streamed(self.bigram.weight) if self.bigram else None
        self.positions = self._position_table(model.positions)
        self.blocks = [self._block(block) for block in model.blocks if isinstance(block, Block)]
        self.cos, self.sin = self._angles(model)
        self.norm = self._norm(model.norm)
        self.head_product = self._head(model)
        self.cap = model.head.cap

    def copy_(self, other: "LeanGPT") -> None:
        """Take the weights of another of the same shape, in place, as CUDA graphs need it. Plain products only."""
        for tensor, new in zip(self.tensors, other.tensors, strict=True):
            tensor.copy_(new)

    def _kept(self, tensor: Tensor) -> Tensor:
        if self.make_linear is make_plain:  # others have a copy of their own, and this one is freed
            self.tensors.append(tensor)
        return tensor

    def _streamed(self, weight: Tensor) -> Tensor:
        return self._kept(weight.detach().to(self.stream))

    def _linear(self, *parts: nn.Linear, pad: int = 0) -> Linear:
        """One product for several layers with the same input."""
        weight = torch.cat([part.weight.detach() for part in parts]).to(self.dtype)
        bias = None
        if parts[0].bias is not None:
            bias = self._kept(F.pad(torch.cat([part.bias.detach() for part in parts]).to(self.dtype), (0, pad)))
        return self.make_linear(self._kept(F.pad(weight, (0, 0, 0, pad)) if pad else weight), bias)

    def _head(self, model: GPT) -> Linear:
        """On a GPU the vocabulary is padded: see model/head.py."""
        V = model.head.out_features
        if self.device.type != "cuda":
            return self._linear(model.head)
        padded = self._linear(model.head, pad=padding(V))
        return lambda x: padded(x)[:, :V]

    def _norm(self, module: nn.Module) -> Function:
        if isinstance(module, nn.Identity):  # a model without a final norm
            return module.forward
        weight, eps, shape = self._streamed(module.weight), self.config.eps, (self.config.n_embd,)  # type: ignore[arg-type]
        if isinstance(module, nn.LayerNorm):
            bias = None if module.bias is None else self._streamed(module.bias)
            return lambda x: torch.layer_norm(x, shape, weight, bias, eps)
        return lambda x: F.rms_norm(x, shape, weight, eps)

    def _position_table(self, module: nn.Module) -> Tensor | None:
        if isinstance(module, LearnedPositions):
            return self._streamed(module.weight)
        return self._streamed(module.table) if isinstance(module, SinusoidalPositions) else None

    def _angles(self, model: GPT) -> tuple[Tensor | None, Tensor | None]:
        """Tables for x · cos + roll(x) · sin, with the sign in `sin`. Each [context, D]"""
        rotation = model.blocks[0].attention.rotate  # type: ignore[union-attr]
        if not isinstance(rotation, Rotary):
            return None, None
        cos, sin = rotation.cos, rotation.sin
        return self._streamed(torch.cat((cos, cos), -1)), self._streamed(torch.cat((-sin, sin), -1))

    def _block(self, block: Block) -> LeanBlock:
        attention = block.attention
        return LEAN_BLOCKS[self.config.block](
            self._norm(block.attention_norm),
            self._linear(attention.query, attention.key, attention.value),
            self._qk_norm(attention) if self.config.qk_norm else None,
            self._linear(attention.output),
            self._norm(block.mlp_norm),
            self._mlp(block.mlp),
        )

    def _qk_norm(self, attention: Attention) -> Function:
        H, K, D = self.config.n_head, self.config.kv_heads, self.config.head_width
        query, key = (self._streamed(norm.weight) for norm in (attention.query_norm, attention.key_norm))  # type: ignore[arg-type]
        weight, eps = self._kept(torch.cat((query.expand(H, D), key.expand(K, D)))), self.config.eps
        return lambda x: F.rms_norm(x, (D,), None, eps).mul_(weight)

    def _mlp(self, mlp: MLP) -> Function:
        down, width = self._linear(mlp.down), self.config.mlp_hidden_width
        if isinstance(mlp, SwigluMLP):
            both = self._linear(mlp.gate, mlp.up)

            def gated(x: Tensor) -> Tensor:
                gate, up = both(x).split(width, -1)
                return down(F.silu(gate).mul_(up))

            return gated
        up, activation = self._linear(mlp.up), ACTIVATIONS[self.config.mlp]
        return lambda x: down(activation(up(x)))

    def embed(self, ids: Tensor, previous: Tensor | None, positions: Tensor) -> Tensor:
        """ids, the tokens before them (for bigrams), their positions, each [N] → [N, C]"""
        x = F.embedding(ids, self.table)
        if self.bigram is not None and previous is not None and self.bigram_table is not None:
            pair = previous * self.bigram.vocab_size + ids
            x = x + F.embedding(self.bigram.row(pair), self.bigram_table)
        if self.positions is not None:
            x = x + F.embedding(positions, self.positions)
        return x

    def read(self, ids: Tensor, start: int, text: Tensor, attend: Attend) -> Tensor:
        """The tokens start … of a row, ids [N], and `text` [context], which keeps them for bigrams → [N, C]"""
        stop = start + len(ids)
        positions = torch.arange(start, stop, device=self.device)
        text[start:stop] = ids
        previous = text[start - 1 : stop - 1] if start else F.pad(ids[:-1], (1, 0))
        return self.hidden(self.embed(ids, previous, positions), self.angles(positions), attend)

    def next_token_logits(self, ids: Tensor) -> Tensor:
        """Whole texts, ids [R, T], without a cache → logits after their last tokens [R, V]"""
        (R, T), K = ids.shape, self.config.kv_heads

        def attend(_: int, heads: Tensor) -> Tensor:
            q, k, v = heads.view(R, T, self.heads, -1).transpose(1, 2).split((self.config.n_head, K, K), dim=1)
            return sdpa_attention(q, k, v, None, self.config.window).transpose(1, 2).reshape(R * T, -1)

        positions, previous = torch.arange(T, device=self.device).repeat(R), F.pad(ids[:, :-1], (1, 0))
        x = self.embed(ids.flatten(), previous.flatten(), positions)
        return self.head(self.hidden(x, self.angles(positions), attend).view(R, T, -1)[:, -1])

    def mask(self, positions: Tensor, first: int, stop: int) -> Tensor:
        """0 where the query of a row, at positions [R], sees key first … stop-1, -inf where not. [R, 1, 1, S]"""
        key, query = torch.arange(first, stop, device=self.device), positions[:, None, None, None]
        seen = (key <= query) & (key > query - self.config.attention_span)
        return torch.zeros(seen.shape, dtype=self.stream, device=self.device).masked_fill_(~seen, float("-inf"))

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of positions [N], each [N, 1, D]; None where nothing is rotated."""
        if self.cos is None or self.sin is None:
            return None
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)

    def hidden(self, x: Tensor, angles: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """x [N, C], overwritten → [N, C]"""
        for number, block in enumerate(self.blocks):
            x = block(x, partial(self._attention, number, block, angles, attend))
        return self.norm(x)

    def _attention(
        self, number: int, block: LeanBlock, angles: tuple[Tensor, Tensor] | None, attend: Attend, x: Tensor
    ) -> Tensor:
        """x [N, C] → what the attention of a block adds to the residual stream [N, C]"""
        heads = block.qkv(x).to(self.stream).view(len(x), self.heads, -1)
        if block.qk_norm is not None or angles is not None:
            self._rotate(heads[:, : self.rotated], block.qk_norm, angles)
        return block.output(attend(number, heads))

    def _rotate(self, x: Tensor, norm: Function | None, angles: tuple[Tensor, Tensor] | None) -> None:
        """Queries and keys [N, H + K, D], in place: dimensions i and i + D/2 are a point in a plane."""
        y = x if norm is None else norm(x)
        if angles is None:
            x.copy_(y)
        else:
            cos, sin = angles
            torch.addcmul(y * cos, y.roll(y.shape[-1] // 2, -1), sin, out=x)

    def head(self, hidden: Tensor) -> Tensor:
        """[N, C] → logits [N, V]"""
        return self.cap(self.head_product(hidden))
