"""[model]: the shape of a GPT, and which parts it is made of. No torch here."""

import math
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import listed_divisors, refuse_odd_counts, setting
from fledge.core.errors import UserError

EPS = {"layernorm": 1e-5, "rmsnorm": 1e-6}


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
    positions: Literal["learned", "sinusoidal", "rotary"] = setting("rotary", "how the model knows the order of tokens")
    rotary_base: float = setting(10_000.0, "rotary: the larger, the slower the slowest pairs turn")
    norm: Literal["layernorm", "rmsnorm"] = setting("rmsnorm", "how activations are kept in range")
    norm_eps: float | None = setting(None, "added before a norm divides; unset: layernorm 1e-5, rmsnorm 1e-6")
    mlp: Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu"] = setting(
        "swiglu", "what a block does after attending"
    )
    mlp_width: int | None = setting(None, "hidden width of the MLP; unset: 4 n_embd (swiglu: 8/3)")
    qkv_bias: bool = setting(False, "biases of queries, keys and values")
    output_bias: bool = setting(False, "bias of the attention's output")
    mlp_bias: bool = setting(False, "biases in the MLP")
    norm_bias: bool = setting(False, "biases in the norms (layernorm only)")
    head_bias: bool = setting(False, "a bias for each token's score")
    qk_norm: bool = setting(True, "normalise queries and keys, which keeps attention healthy")
    window: int | None = setting(None, "a token sees itself and the window - 1 before it; unset: everything")
    softcap: float | None = setting(None, "keep scores between -softcap and softcap, gently; unset: as they are")
    bigram_rows: int | None = setting(None, "rows for what a token means after the one before it; unset: none")
    tied: bool = setting(False, "one matrix for reading tokens in and out")
    attention: Literal["auto", "sdpa", "blocked", "readable"] = setting(
        "auto", "how it is computed: a fused kernel, blocks of matrix products, or step by step; auto: the fastest here"
    )

    def __post_init__(self) -> None:
        counts = (
            "n_layer",
            "n_head",
            "n_kv_head",
            "n_embd",
            "head_dim",
            "context",
            "vocab_size",
            "mlp_width",
            "bigram_rows",
        )
        refuse_odd_counts(self, "model", counts)
        self._check_numbers()
        self._check_heads()
        self._check_positions()
        self._check_parts()

    def _check_numbers(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"model.dropout cannot be {self.dropout}", "it takes a number from 0 up to, not including, 1"
            )
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:
            raise UserError(
                f"model.norm_eps cannot be {self.norm_eps}",
                f"it takes a small number above 0; {EPS[self.norm]:g} is usual for {self.norm}",
            )
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise UserError(
                f"model.softcap cannot be {self.softcap}",
                "it takes a number above 0, such as 15 or 30; left out, scores stay as they are",
            )

    def _check_parts(self) -> None:
        if self.norm_bias and self.norm == "rmsnorm":
            raise UserError("model.norm_bias: an rmsnorm has no bias", "use model.norm layernorm, or norm_bias false")
        if self.window is not None and not 1 <= self.window <= self.context:
            raise UserError(
                f"model.window cannot be {self.window} where model.context = {self.context}",
                f"it takes a whole number from 1 to {self.context}; left out, a token sees all that came before",
            )

    def _check_heads(self) -> None:
        if self.head_dim is None and self.n_embd % self.n_head:
            below = self.n_embd - self.n_embd % self.n_head
            raise UserError(
                f"model.n_embd = {self.n_embd} is not divisible by model.n_head = {self.n_head}",
                f"use n_embd {below or self.n_head} or {below + self.n_head}, or set model.head_dim",
            )
        if self.n_head % self.kv_heads:
            raise UserError(
                f"model.n_kv_head = {self.n_kv_head} does not divide model.n_head = {self.n_head}",
                f"it can be {listed_divisors(self.n_head)}",
            )

    def _check_positions(self) -> None:
        if self.positions == "rotary" and self.head_width % 2:
            raise UserError(
                f"rotary positions turn pairs, and a head is {self.head_width} wide",
                f"use an even model.head_dim, {self.head_width + 1} for example, or model.positions learned",
            )
        if not 1 < self.rotary_base < math.inf:
            raise UserError(
                f"model.rotary_base cannot be {self.rotary_base}", "it takes a number above 1; 10000 is usual"
            )
        if self.positions == "sinusoidal" and self.n_embd % 2:
            raise UserError(
                f"sinusoidal positions are pairs of a sine and a cosine, and model.n_embd = {self.n_embd} is odd",
                "use an even n_embd, or model.positions learned",
            )

    @property
    def kv_heads(self) -> int:
        """heads for keys and values, shared by groups"""
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        """width of a head"""
        return self.head_dim or self.n_embd // self.n_head

    @property
    def reach(self) -> int:
        """how many tokens a token sees at most, itself among them"""
        return self.window or self.context

    @property
    def eps(self) -> float:
        """added before a norm divides"""
        return self.norm_eps or EPS[self.norm]

    @property
    def hidden_width(self) -> int:
        """hidden width of the MLP"""
        if self.mlp_width:
            return self.mlp_width
        # swiglu has three matrices instead of two: at 8/3 of the width it costs the same as 4 in the others.
        return 4 * self.n_embd if self.mlp != "swiglu" else -(-8 * self.n_embd // (3 * 16)) * 16
