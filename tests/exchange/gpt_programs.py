"""Small re-statements of the models of other programs: the same names of weights, and the same numbers.

They are written from what each computes, share none of our code, and are what imported models are compared with.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

V, T, C, L, H = 61, 24, 32, 2, 4  # vocabulary, context, width, blocks, heads


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, H, T, D] each → [B, T, H · D], causal."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    mixed = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
    return mixed.transpose(1, 2).flatten(2)


def split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def fused(x: Tensor, heads: int) -> Tensor:
    """[B, T, 3C]: all queries, all keys, all values."""
    return attend(*(split(part, heads) for part in x.chunk(3, -1)))


class Parts(nn.Module):
    """Modules by dotted names, so that a model below is a list of names and a forward."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def positions(ids: Tensor, table: nn.Module) -> Tensor:
    return table(torch.arange(ids.shape[1]))


class SmolGPT(nn.Module):
    def __init__(self, bias: bool = False, heads: int = H) -> None:
        super().__init__()
        self.heads = heads
        blocks = nn.ModuleList(
            Parts(
                ln1=nn.LayerNorm(C, bias=bias),
                attn=Parts(qkv=nn.Linear(C, 3 * C, bias), proj=nn.Linear(C, C, bias)),
                ln2=nn.LayerNorm(C, bias=bias),
                mlp=Parts(ffw1=nn.Linear(C, 4 * C, bias), ffw2=nn.Linear(4 * C, C, bias)),
            )
            for _ in range(L)
        )
        self.transformer = Parts(
            token_embd=nn.Embedding(V, C),
            position_embd=nn.Embedding(T, C),
            attention_blocks=blocks,
            ln=nn.LayerNorm(C, bias=bias),
        )
        self.vocab_proj = nn.Linear(C, V, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        model = self.transformer
        x = model.token_embd(ids) + positions(ids, model.position_embd)
        for block in model.attention_blocks:
            x = x + block.attn.proj(fused(block.attn.qkv(block.ln1(x)), self.heads))
            x = x + block.mlp.ffw2(block.mlp.ffw1(block.ln2(x)).relu())
        return self.vocab_proj(model.ln(x))


class SmallGPT(nn.Module):
    """The projection's rows are query, key and value of head 0, then of head 1, …; its mask is a buffer."""

    def __init__(self) -> None:
        super().__init__()

        def attention() -> Parts:
            parts = Parts(qkv_layer=nn.Linear(C, 3 * C), linear_layer=nn.Linear(C, C))
            parts.register_buffer("mask", torch.ones(T, T).triu(1))
            return parts

        def mlp() -> Parts:
            layers = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * C, C))
            return Parts(layers=layers)

        self.tok_emb, self.pos_emb = nn.Embedding(V, C), nn.Embedding(T, C)
        self.transformers = nn.Sequential(
            *(Parts(attention=attention(), ff=mlp(), norm1=nn.LayerNorm(C), norm2=nn.LayerNorm(C)) for _ in range(L))
        )
        self.layer_norm = nn.LayerNorm(C)
        self.final_layer = nn.Linear(C, V, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_emb(ids) + positions(ids, self.pos_emb)
        for block in self.transformers:
            q, k, v = split(block.attention.qkv_layer(block.norm1(x)), H).chunk(3, -1)
            x = x + block.attention.linear_layer(attend(q, k, v))
            x = x + block.ff.layers(block.norm2(x))
        return self.final_layer(self.layer_norm(x))


class SmollGPT(nn.Module):
    """A norm at the beginning and at the end of each block, none around its parts, and none before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Parts(word_embeddings=nn.Embedding(V, C), pos_embeddings=nn.Embedding(T, C))
        self.blocks = nn.Sequential(
            *(
                Parts(
                    attn=Parts(QKV=nn.Linear(C, 3 * C, bias=False), lin=nn.Linear(C, C, bias=False)),
                    mlp=Parts(net=nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))),
                    ln_in=nn.LayerNorm(C),
                    ln_out=nn.LayerNorm(C),
                )
                for _ in range(L)
            )
        )
        self.head = nn.Linear(C, V)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding.word_embeddings(ids) + positions(ids, self.embedding.pos_embeddings)
        for block in self.blocks:
            x = block.ln_in(x)
            x = x + block.attn.lin(fused(block.attn.QKV(x), H))
            x = block.ln_out(x + block.mlp.net(x))
        return self.head(x)


class ToyGPT(nn.Module):
    """Sinusoidal positions, computed and not saved; one matrix for embedding and head; no norm before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.output_linear = nn.Linear(C, V)
        self.embedding = nn.Embedding(V, C)
        self.embedding.weight = self.output_linear.weight
        self.transformers = nn.Sequential(
            *(
                Parts(
                    input_norm=nn.LayerNorm(C),
                    mha=Parts(attn_proj=nn.Sequential(nn.Linear(C, 3 * C)), out_linear=nn.Linear(C, C)),
                    mha_lnorm=nn.LayerNorm(C),
                    pw_ff=Parts(pwff=nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))),
                )
                for _ in range(L)
            )
        )

    def forward(self, ids: Tensor) -> Tensor:
        angle = torch.arange(ids.shape[1])[:, None] / 10_000 ** (torch.arange(0, C, 2) / C)
        x = self.embedding(ids) + torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
        for block in self.transformers:
            x = x + block.mha.out_linear(fused(block.mha.attn_proj(block.input_norm(x)), H))
            x = x + block.pw_ff.pwff(block.mha_lnorm(x))
        return self.output_linear(x)


class ScratchEarly(nn.Module):
    """GPT from scratch, its character run: matrices and a mask for each head, and norms after the sums."""

    def __init__(self, head_dim: int = C // H) -> None:
        super().__init__()

        def head() -> Parts:
            parts = Parts(**{name: nn.Linear(C, head_dim, bias=False) for name in ("W_q", "W_k", "W_v")})
            parts.register_buffer("tril", torch.ones(T, T).tril())
            return parts

        self.token_embedding, self.positional_embedding = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.Sequential(
            *(
                Parts(
                    mha=Parts(
                        all_heads=nn.ModuleList(head() for _ in range(H)),
                        linear_out=nn.Linear(H * head_dim, C, bias=False),
                    ),
                    ff=Parts(net=nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C))),
                    layernorm_1=nn.LayerNorm(C),
                    layernorm_2=nn.LayerNorm(C),
                )
                for _ in range(L)
            )
        )
        self.layer_norm = nn.LayerNorm(C)
        self.linear_layer = nn.Linear(C, V)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + positions(ids, self.positional_embedding)
        for block in self.blocks:
            heads = block.mha.all_heads
            mixed = [attend(*(part(x)[:, None] for part in (h.W_q, h.W_k, h.W_v))) for h in heads]
            x = block.layernorm_1(x + block.mha.linear_out(torch.cat(mixed, -1)))
            x = block.layernorm_2(x + block.ff.net(x))
        return self.linear_layer(self.layer_norm(x))


class Scratch(nn.Module):
    """GPT from scratch, its FineWeb run: GPT-2's blocks, and one matrix for embedding and head."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding, self.positional_embedding = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.Sequential(
            *(
                Parts(
                    causal_self_attention=Parts(c_attn=nn.Linear(C, 3 * C), linear_out=nn.Linear(C, C)),
                    ff=Parts(first_linear=nn.Linear(C, 4 * C), final_linear=nn.Linear(4 * C, C)),
                    layernorm_1=nn.LayerNorm(C),
                    layernorm_2=nn.LayerNorm(C),
                )
                for _ in range(L)
            )
        )
        self.layer_norm = nn.LayerNorm(C)
        self.last_linear_layer = nn.Linear(C, V, bias=False)
        self.token_embedding.weight = self.last_linear_layer.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + positions(ids, self.positional_embedding)
        for block in self.blocks:
            attention = block.causal_self_attention
            x = x + attention.linear_out(fused(attention.c_attn(block.layernorm_1(x)), H))
            x = x + block.ff.final_linear(F.gelu(block.ff.first_linear(block.layernorm_2(x)), approximate="tanh"))
        return self.last_linear_layer(self.layer_norm(x))


Model = Callable[..., nn.Module]


def state(model: nn.Module, prefix: str = "") -> dict[str, Any]:
    """The state dict; a buffer that a program saves is in it."""
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}
