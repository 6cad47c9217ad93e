"""The programs whose checkpoints are read: how each is recognised, and what its code makes of the weights.

A program is recognised by the names of its weights. Depth, width, vocabulary, context and the width of the MLP follow
from their shapes; `parts` are the settings that its code fixes, and `saved` those that its files say.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fledge.core.errors import UserError
from fledge.exchange.names import NANOGPT, Names
from fledge.exchange.torch_checkpoints import names as tables
from fledge.exchange.torch_checkpoints.contents import HEADS

BIASES = ("qkv_bias", "output_bias", "mlp_bias", "norm_bias")  # where a program has one switch for all of them
RECOGNISED = 0.5  # share of the tensors of a file whose names the program knows


class Vocabulary(NamedTuple):
    kind: str  # a tokenizer of OpenAI
    added: tuple[str, ...] = ()  # special tokens after it


GPT2 = {50_257: Vocabulary("gpt2"), 50_304: Vocabulary("gpt2")}  # 50,304: padded for speed
P50K = {50_281: Vocabulary("p50k")}
TOYGPT_TOKENS = {
    50_259: Vocabulary("gpt2", ("<pad>", "<|startoftext|>")),
    50_262: Vocabulary("gpt2", ("<pad>", "<msk>", "<cls>", "<sep>", "<|startoftext|>")),  # its later state
}


@dataclass(frozen=True)
class Program:
    name: str
    names: Names
    parts: Mapping[str, Any]
    saved: Mapping[str, str] = field(default_factory=dict)  # our setting → its name in the file
    presets: tuple[str, ...] = ()  # with the published shapes
    vocabularies: Mapping[int, Vocabulary] = field(default_factory=lambda: GPT2)  # by their size


def _biases(*biased: str) -> dict[str, bool]:
    return {bias: bias in biased for bias in (*BIASES, "head_bias")}


CLASSIC = {"positions": "learned", "norm": "layernorm", "qk_norm": False, "tied": False}
EARLY = {**CLASSIC, **_biases("mlp_bias", "norm_bias", "head_bias"), "init": "torch"}
SMALLGPT_PLACES = ("attention", "mlp", "residual")
TOYGPT_PLACES = ("embedding", "qkv", "attention", "residual", "stream")

PROGRAMS = (
    Program(
        "nanoGPT",
        NANOGPT,
        {**CLASSIC, "mlp": "gelu", "tied": True},
        {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "context": "block_size"}
        | {"vocab_size": "vocab_size", "dropout": "dropout"},
        ("nanogpt-shakespeare-char", "nanogpt-shakespeare-cpu"),
    ),
    Program(
        "smol-GPT",
        tables.SMOL_GPT,
        {**CLASSIC, "mlp": "relu", "dropout_on": ("attention", "residual"), "init": "torch"},
        {"n_layer": "N_layer", "n_head": "N_head", "n_embd": "N_embd", "context": "context_length"}
        | {"vocab_size": "vocab_size", "dropout": "dropout"},
        ("smol-gpt-22m",),
    ),
    Program(
        "SmallGPT",
        tables.SMALLGPT,
        {**CLASSIC, **_biases(*BIASES), "mlp": "gelu", "dropout": 0.1, "dropout_on": SMALLGPT_PLACES, "init": "torch"},
        presets=("smallgpt-shakespeare",),
    ),
    Program(
        "SmollGPT",
        tables.SMOLLGPT,
        {**EARLY, "block": "norm_in_out", "final_norm": False, "mlp": "gelu"}
        | {"dropout": 0.1, "dropout_on": ("attention", "residual")},
        presets=("smollgpt-130m",),
        vocabularies=P50K,
    ),
    Program(
        "toyGPT",
        tables.TOYGPT,
        {**CLASSIC, **_biases(*BIASES, "head_bias"), "positions": "sinusoidal", "final_norm": False}
        | {"mlp": "gelu", "tied": True, "dropout_on": TOYGPT_PLACES, "init": "normal"},
        {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embed", "context": "block_size"}
        | {"vocab_size": "vocab_size", "dropout": "p_dropout"},
        ("toygpt-small", "toygpt-medium", "toygpt-large"),
        TOYGPT_TOKENS,
    ),
    Program(
        "GPT from scratch",  # its character and OpenWebText runs
        tables.SCRATCH_EARLY,
        {**EARLY, "block": "post_norm", "mlp": "relu"},
        {"n_head": HEADS},
        ("scratch-char", "scratch-owt10k"),
    ),
    Program(
        "GPT from scratch",  # its FineWeb run
        tables.SCRATCH,
        {**CLASSIC, **_biases(*BIASES), "mlp": "gelu_tanh", "tied": True},
        presets=("scratch-fineweb",),
    ),
)


def recognise(tensors: Iterable[str], source: str) -> Program:
    """The program that knows most of the names; an error where none knows half of them."""
    found = list(tensors)
    known = [_known(found, program.names) for program in PROGRAMS]
    best = PROGRAMS[known.index(max(known))]
    if max(known) < RECOGNISED * len(found):
        examples = ", ".join(f"'{name}'" for name in found[:3])
        programs = ", ".join(dict.fromkeys(program.name for program in PROGRAMS))
        raise UserError(
            f"the weights of '{source}' have names of no program that fledge knows: {examples}",
            f"it reads checkpoints of {programs}, and Hugging Face folders",
        )
    return best


def _known(found: Iterable[str], names: Names) -> int:
    rows = "|".join(re.escape(row.theirs).replace(r"\.N\.", r"\.\d+\.") for row in names.rows)
    pattern = re.compile(rf"(?:(?:{rows})\.(?:weight|bias))|(?:{names.ignored})")
    return sum(pattern.fullmatch(name) is not None for name in found)
