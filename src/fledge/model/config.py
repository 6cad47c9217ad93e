"""[model]: the shape of a GPT, and which parts it is made of. No torch here."""

from dataclasses import dataclass
from typing import Literal

from fledge.base.errors import UserError
from fledge.base.settings import divisors, refuse_odd_counts, setting


@dataclass(frozen=True)
class ModelConfig:
    n_layer: int = setting(6, "how many blocks")
    n_head: int = setting(6, "how many attention heads a block has")
    n_kv_head: int | None = setting(None, "heads for keys and values, shared by groups; unset: n_head")
    n_embd: int = setting(192, "width: numbers that describe a token between blocks")
    head_dim: int | None = setting(None, "width of a head; unset: n_embd / n_head")
    context: int = setting(256, "how many tokens the model sees at once")
    vocab_size: int | None = setting(None, "how many different tokens; unset: the tokenizer's")
    dropout: float = setting(0.0, "share of activations dropped in training")
    positions: Literal["learned", "rotary"] = setting("rotary", "how the model knows the order of tokens")
    norm: Literal["layernorm", "rmsnorm"] = setting("rmsnorm", "how activations are kept in range")
    mlp: Literal["gelu", "relu2", "swiglu"] = setting("swiglu", "what a block does after attending")
    mlp_width: int | None = setting(None, "hidden width of the MLP; unset: 4 n_embd (swiglu: 8/3)")
    bias: bool = setting(False, "biases in the linear maps")
    norm_bias: bool = setting(False, "biases in the norms (layernorm only)")
    qk_norm: bool = setting(True, "normalise queries and keys, which keeps attention calm")
    tied: bool = setting(False, "one matrix for reading tokens in and out")
    attention: Literal["fast", "readable"] = setting("fast", "fused kernel, or every step spelled out")

    def __post_init__(self) -> None:
        counts = ("n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "context", "vocab_size", "mlp_width")
        refuse_odd_counts(self, "model", counts)
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"model.dropout cannot be {self.dropout}", "it takes a number from 0 up to, not including, 1"
            )
        if self.head_dim is None and self.n_embd % self.n_head:
            below = self.n_embd - self.n_embd % self.n_head
            raise UserError(
                f"model.n_embd = {self.n_embd} is not divisible by model.n_head = {self.n_head}",
                f"use n_embd {below or self.n_head} or {below + self.n_head}, or set model.head_dim",
            )
        if self.n_head % self.kv_heads:
            raise UserError(
                f"model.n_kv_head = {self.n_kv_head} does not divide model.n_head = {self.n_head}",
                f"it can be {divisors(self.n_head)}",
            )
        if self.positions == "rotary" and self.head_width % 2:
            raise UserError(
                f"rotary positions turn pairs, and a head is {self.head_width} wide",
                "use an even model.head_dim, or model.positions learned",
            )
        if self.norm_bias and self.norm == "rmsnorm":
            raise UserError("model.norm_bias: an rmsnorm has no bias", "use model.norm layernorm, or norm_bias false")

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def hidden_width(self) -> int:
        """swiglu has three matrices instead of two: at 8/3 of the width it costs the same as 4 in the others."""
        if self.mlp_width:
            return self.mlp_width
        return 4 * self.n_embd if self.mlp != "swiglu" else -(-8 * self.n_embd // (3 * 16)) * 16
