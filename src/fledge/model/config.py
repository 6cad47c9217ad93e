"""[model]: the shape of a GPT and the parts it is made of. Without torch, so that the command line starts fast."""

import math
from dataclasses import dataclass
from typing import Literal

from fledge.core.config import check_counts, listed_divisors, setting
from fledge.core.errors import UserError

EPS = {"layernorm": 1e-5, "rmsnorm": 1e-6}
DropoutPlace = Literal["embedding", "qkv", "attention", "mlp", "residual", "stream"]
DROPOUT_ON: tuple[DropoutPlace, ...] = ("embedding", "attention", "residual")  # GPT-2's places


@dataclass(frozen=True)
class ModelConfig:
    n_layer: int = setting(6, "number of blocks")
    n_head: int = setting(6, "attention heads of a block")
    n_kv_head: int | None = setting(None, "key/value heads, shared by groups of query heads (GQA); unset: n_head")
    n_embd: int = setting(192, "width of the model: the size of a hidden vector")
    head_dim: int | None = setting(None, "width of a head; unset: n_embd / n_head")
    context: int = setting(256, "context length: how many tokens the model sees at once")
    vocab_size: int | None = setting(None, "size of the vocabulary; unset: that of the tokenizer")
    block: Literal["pre_norm", "post_norm", "norm_in_out"] = setting(
        "pre_norm", "where a block normalizes: before attention and MLP, after each, or its input and its output"
    )
    final_norm: bool = setting(True, "a norm between the last block and the head")
    dropout: float = setting(0.0, "fraction of activations dropped in training")
    dropout_on: tuple[DropoutPlace, ...] = setting(
        DROPOUT_ON,
        "what is dropped: embedding, qkv, attention (its weights), mlp (hidden), residual (what a branch adds), stream",
    )
    init: Literal["gpt2", "normal", "torch"] = setting(
        "gpt2", "new weights: normal 0.02, less with depth where a branch ends; normal 0.02; or torch's defaults"
    )
    positions: Literal["learned", "sinusoidal", "rotary"] = setting("rotary", "positional encoding")
    rotary_base: float = setting(10_000.0, "rotary: base of the frequencies; larger for long contexts")
    norm: Literal["layernorm", "rmsnorm"] = setting("rmsnorm", "how activations are normalized")
    norm_eps: float | None = setting(None, "epsilon of the norms; unset: layernorm 1e-5, rmsnorm 1e-6")
    mlp: Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu"] = setting("swiglu", "activation of the MLP")
    mlp_width: int | None = setting(None, "hidden width of the MLP; unset: 4 · n_embd (swiglu: 8/3 · n_embd)")
    qkv_bias: bool = setting(False, "biases of the query, key and value projections")
    output_bias: bool = setting(False, "bias of the attention's output projection")
    mlp_bias: bool = setting(False, "biases in the MLP")
    norm_bias: bool = setting(False, "biases in the norms (layernorm only)")
    head_bias: bool = setting(False, "bias of the head")
    qk_norm: bool = setting(True, "normalize queries and keys, which keeps training stable")
    window: int | None = setting(
        None, "sliding window: a token sees itself and the window - 1 tokens before it; unset: all"
    )
    softcap: float | None = setting(None, "squeeze logits smoothly between -softcap and softcap; unset: no cap")
    bigram_rows: int | None = setting(
        None, "rows of the embedding of token pairs; fewer than there are pairs: see bigram_pairs; unset: none"
    )
    bigram_pairs: Literal["hashed", "frequent"] = setting(
        "hashed",
        "where bigram_rows are fewer than pairs: they share rows by a hash, or only frequent ones have rows",
    )
    bigram_vocab: int | None = setting(
        None, "vocabulary that pairs are numbered by, where more tokens were added later; unset: vocab_size"
    )
    tied: bool = setting(False, "share one matrix between the embedding and the head")
    attention: Literal["auto", "sdpa", "blocked", "readable"] = setting(
        "auto", "implementation: a fused kernel, blocks of matrix products, or step by step; auto: the fastest here"
    )
    lora: int | None = setting(None, "LoRA: rank of the trained adapters beside frozen weights; unset: none")
    lora_alpha: float | None = setting(None, "LoRA: adapters are scaled by lora_alpha / lora; unset: 2 · lora")
    lora_embeddings: bool = setting(False, "LoRA: train embedding and head too; needed where tokens were added")
    value_head: bool = setting(False, "a second head that gives each token one number: a reward or a value")
    value_std: float = setting(0.0, "spread of the numbers that a new value head gives; 0: all are 0")

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
            "bigram_vocab",
            "lora",
        )
        check_counts(self, "model", counts)
        self._check_numbers()
        self._check_heads()
        self._check_positions()
        self._check_dropout()
        self._check_parts()

    def _check_numbers(self) -> None:
        if not 0 <= self.value_std < math.inf:
            raise UserError(f"model.value_std cannot be {self.value_std}", "use a number of at least 0; 1 is usual")
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:
            raise UserError(
                f"model.norm_eps cannot be {self.norm_eps}",
                f"use a small number above 0; {EPS[self.norm]:g} is usual for {self.norm}",
            )
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise UserError(
                f"model.softcap cannot be {self.softcap}",
                "use a number above 0, such as 15 or 30, or leave it out for no cap",
            )

    def _check_dropout(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout cannot be {self.dropout}", "use a number from 0 to below 1")
        if len(set(self.dropout_on)) < len(self.dropout_on):
            raise UserError(f"model.dropout_on names a place twice: {', '.join(self.dropout_on)}", "name each once")
        if self.dropout and not self.dropout_on:
            raise UserError(
                f"model.dropout = {self.dropout}, but model.dropout_on names no place",
                f"name where: --model.dropout_on {','.join(DROPOUT_ON)}, or use --model.dropout 0",
            )

    def _check_parts(self) -> None:
        if self.norm_bias and self.norm == "rmsnorm":
            raise UserError(
                "model.norm_bias = true, but an rmsnorm has no bias", "use model.norm layernorm, or norm_bias false"
            )
        if self.bigram_vocab is not None and (
            self.has_all_bigrams or self.bigram_vocab > (self.vocab_size or self.bigram_vocab)
        ):
            raise UserError(
                f"model.bigram_vocab cannot be {self.bigram_vocab} here",
                "leave it out: it is for a vocabulary that tokens were added to, and pairs without rows of their own",
            )
        if self.window is not None and not 1 <= self.window <= self.context:
            raise UserError(
                f"model.window cannot be {self.window} where model.context = {self.context}",
                f"use a whole number from 1 to {self.context}, or leave it out: then a token sees all earlier ones",
            )
        if self.lora_alpha is not None and (self.lora is None or not 0 < self.lora_alpha < math.inf):
            without = self.lora is None
            raise UserError(
                f"model.lora_alpha = {self.lora_alpha}{', but model.lora is unset' if without else ' cannot be used'}",
                "set the rank of the adapters too: --model.lora 16" if without else "use a number above 0",
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
                f"use one of {listed_divisors(self.n_head)}",
            )

    def _check_positions(self) -> None:
        if self.positions == "rotary" and self.head_width % 2:
            raise UserError(
                f"rotary positions need an even head width, and a head is {self.head_width} wide",
                f"use an even model.head_dim such as {self.head_width + 1}, or model.positions learned",
            )
        if not 1 < self.rotary_base < math.inf:
            raise UserError(f"model.rotary_base cannot be {self.rotary_base}", "use a number above 1; 10000 is usual")
        if self.positions == "sinusoidal" and self.n_embd % 2:
            raise UserError(
                f"sinusoidal positions need an even width, and model.n_embd = {self.n_embd}",
                "use an even n_embd, or model.positions learned",
            )

    @property
    def kv_heads(self) -> int:
        """key/value heads, shared by groups of query heads"""
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        """width of a head"""
        return self.head_dim or self.n_embd // self.n_head

    def dropout_at(self, place: DropoutPlace) -> float:
        """fraction that is dropped in one place"""
        return self.dropout if place in self.dropout_on else 0.0

    @property
    def attention_span(self) -> int:
        """how many tokens a token sees at most, including itself"""
        return self.window or self.context

    @property
    def has_all_bigrams(self) -> bool:
        """whether each pair of tokens has a row in their table, or there is no table"""
        base = self.bigram_vocab or self.vocab_size
        return self.bigram_rows is None or base is None or base**2 <= self.bigram_rows

    @property
    def lora_scale(self) -> float:
        """factor of the adapters"""
        return 0.0 if self.lora is None else (self.lora_alpha or 2.0 * self.lora) / self.lora

    @property
    def eps(self) -> float:
        """epsilon of the norms"""
        return self.norm_eps or EPS[self.norm]

    @property
    def mlp_hidden_width(self) -> int:
        """hidden width of the MLP"""
        if self.mlp_width:
            return self.mlp_width
        # swiglu has three matrices instead of two: a width of 8/3 costs the same as 4 with two.
        return 4 * self.n_embd if self.mlp != "swiglu" else -(-8 * self.n_embd // (3 * 16)) * 16
