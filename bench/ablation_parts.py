"""The parts that ablations.py tries: name → changed settings, or a patch for what fledge does not have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ablation_model as model
import ablation_update as update
from ablation_model import NotApplicable, Patch
from fledge.training.config import Settings

BASELINE = "baseline"


@dataclass(frozen=True)
class Part:
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # section.key → value, or a function of the recipe's
    patch: type[Patch] | None = None


def patched(patch: type[Patch], about: str = "", **settings: Any) -> Part:
    return Part(
        about or (patch.__doc__ or "").partition("\n")[0],
        {name.replace("__", "."): v for name, v in settings.items()},
        patch,
    )


# Without the fit to n-grams, embedding and head start further from good values.
UNFITTED = {"train.ngram_steps": 0, "model.bigram_pairs": "hashed", "optim.embed_lr": 0.01, "optim.head_lr": 0.01}

# What changes the cost of that fit.
FIT_SETTINGS = {"model.bigram_rows", "model.bigram_pairs", "model.tied", "model.softcap", "train.ngram_steps"}

PARTS: dict[str, Part] = {
    BASELINE: Part("the recipe"),
    "no_bigram": Part("no table of token pairs", {"model.bigram_rows": None}),
    "bigram_hashed": Part("rare pairs of tokens share rows with frequent ones", {"model.bigram_pairs": "hashed"}),
    "bigram_16384": Part("fewer rows for token pairs", {"model.bigram_rows": 16_384}),
    "bigram_262144": Part("more rows for token pairs", {"model.bigram_rows": 262_144}),
    "ngram_0": Part("no fit to n-gram counts; hashed pairs, rates of embedding and head for that", UNFITTED),
    "ngram_64": Part("64 updates on n-gram counts", {"train.ngram_steps": 64}),
    "ngram_128": Part("128 updates on n-gram counts", {"train.ngram_steps": 128}),
    "ngram_256": Part("256 updates on n-gram counts", {"train.ngram_steps": 256}),
    "no_qk_norm": Part("queries and keys are not normalized", {"model.qk_norm": False}),
    "tied": Part("one matrix for embedding and head", {"model.tied": True}),
    "softcap_15": Part("logits between -15 and 15", {"model.softcap": 15.0}),
    "softcap_30": Part("logits between -30 and 30", {"model.softcap": 30.0}),
    "mlp_relu2": Part("ReLU² in the MLP", {"model.mlp": "relu2", "model.mlp_width": None}),
    "mlp_gelu": Part("GELU in the MLP", {"model.mlp": "gelu", "model.mlp_width": None}),
    "kv_heads_1": Part("all heads share one head of keys and values", {"model.n_kv_head": 1}),
    "heads_of_32": Part("twice the heads, half as wide", {"model.n_head": lambda heads: 2 * heads}),
    "context_256": Part("context 256, as many windows", {"model.context": 256}),
    "context_256_batch_16": Part("context 256, 16 windows", {"model.context": 256, "train.batch": 16}),
    "batch_16": Part("16 windows", {"train.batch": 16}),
    "dropout_0.1": Part("dropout 0.1", {"model.dropout": 0.1}),
    "cooldown_0.4": Part("the rate is constant until the last 0.4 of the updates", {"optim.cooldown": 0.4}),
    "momentum_0.95": Part("Muon's momentum 0.95", {"optim.momentum": 0.95}),
    "weight_decay_0.1": Part("cautious weight decay of 0.1, on Muon's matrices", {"optim.weight_decay": 0.1}),
    "muon_lr_x1.5": Part("Muon's rate times 1.5", {"optim.muon_lr": lambda lr: 1.5 * lr}),
    "muon_lr_x0.67": Part("Muon's rate divided by 1.5", {"optim.muon_lr": lambda lr: lr / 1.5}),
    "value_embeddings": patched(model.ValueEmbeddings),
    "smear": patched(model.Smear),
    "residual_scalars": patched(model.ResidualScalars),
    "trigrams": patched(model.Trigrams),
    "normuon": patched(update.NorMuon),
    "polar_express": patched(update.PolarExpress),
    "momentum_rises": patched(update.MomentumRises),
    "average": patched(update.Average),
    "average_no_cooldown": patched(
        update.Average, "the mean of the weights of the last fifth, at a constant rate", optim__cooldown=0.0
    ),
    "ema": patched(update.ExponentialAverage),
    "multi_token": patched(update.MultiTokenPrediction),
    "whole_softmax": Part("the softmax of all tokens in every update", {"train.sampled_softmax": 0}),
    "sampled_softmax_512": Part("512 sampled tokens beside the targets", {"train.sampled_softmax": 512}),
    "batch_grows": patched(update.BatchGrows),
    "context_grows": patched(update.ContextGrows),
    "documents": patched(update.Documents),
}


def changed(recipe: Settings, part: Part) -> Settings:
    """The recipe with the settings of a part. NotApplicable where the recipe has them already."""
    settings = recipe
    for name, value in part.settings.items():
        section, key = name.split(".")
        old = getattr(settings, section)
        new = value(getattr(old, key)) if isinstance(value, Callable) else value
        settings = replace(settings, **{section: replace(old, **{key: new})})
    if part.settings and settings == recipe:
        raise NotApplicable("the recipe has it already")
    return settings
