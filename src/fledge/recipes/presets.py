"""fledge presets: the known GPTs, each a file that can be read and copied.

All of them in a table (for a person, as JSON, as the Markdown of docs/presets.md), or one of them whole.
"""

import argparse
from dataclasses import replace
from typing import Any

from fledge.cli.output import report
from fledge.core.errors import UserError, nearest
from fledge.core.files import human_bytes
from fledge.model import flops
from fledge.model.config import ModelConfig
from fledge.settings.pipeline import expected_vocab_size, preset_files, read_preset, validated


def run(args: argparse.Namespace) -> None:
    if args.markdown and (args.name or args.json):
        raise UserError("--markdown is for the whole table, and for people", "leave out the rest, or --markdown")
    files = preset_files()
    if args.name is None:
        rows = sorted((describe(name) for name in files), key=family_and_size)
        report(rows, as_json=args.json, text=markdown(rows) if args.markdown else table(rows))
        return
    if args.name not in files:
        raise UserError(f"unknown preset '{args.name}'", nearest(args.name, files) or f"there are: {', '.join(files)}")
    row, text = describe(args.name), files[args.name].read_text(encoding="utf-8").rstrip()
    report(row, as_json=args.json, text=f"{text}\n\n{costs(row)}")


def describe(name: str) -> dict[str, Any]:
    """What a preset is and what it costs; bytes are those of bfloat16."""
    layer, about = read_preset(name)
    settings = validated(layer)
    model = replace(settings.model, vocab_size=expected_vocab_size(settings, about))
    asked = settings.train.micro_batch
    micro_batch = asked if isinstance(asked, int) else settings.train.batch
    return {
        "name": name,
        "parameters": flops.parameters(model),
        "non_embedding_parameters": flops.non_embedding_parameters(model),
        "title": about["title"],
        "source": about["source"],
        "layers": model.n_layer,
        "width": model.n_embd,
        "heads": model.n_head,
        "kv_heads": model.kv_heads,
        "head_width": model.head_width,
        "mlp_width": model.hidden_width,
        "context": model.context,
        "vocab_size": model.vocab_size,
        "parts": parts(model),
        "corpus": settings.data.corpus,
        "forward_flops_per_token": flops.forward_flops(model),
        "training_flops_per_token": flops.training_flops(model),
        "cache_bytes_per_token": flops.cache_bytes_per_token(model),
        "cache_bytes": flops.cache_bytes(model),
        "micro_batch": micro_batch,
        "activation_bytes": flops.activation_bytes(
            model, micro_batch, flops.BFLOAT16, chunked=(model.vocab_size or 0) >= flops.LARGE_VOCABULARY
        ),
    }


BIASES = {
    (): "no biases",
    ("qkv", "output", "mlp", "norm"): "biases",
    ("qkv", "output", "mlp", "norm", "head"): "biases everywhere",
}


def parts(model: ModelConfig) -> list[str]:
    """What the model is made of, in the words of its settings."""
    biased = [name for name in ("qkv", "output", "mlp", "norm", "head") if getattr(model, f"{name}_bias")]
    named = [
        model.positions,
        model.norm,
        model.qk_norm and "qk_norm",
        model.mlp,
        BIASES.get(tuple(biased)) or f"biases: {' '.join(biased)}",
        model.tied and "tied",
        model.bigram_rows and f"bigram table ({model.bigram_rows:,} rows)",
        model.window and f"window {model.window}",
        model.softcap and f"softcap {model.softcap:g}",
        model.dropout and f"dropout {model.dropout:g}",
    ]
    return [part for part in named if part]


def family_and_size(row: dict[str, Any]) -> tuple[str, int]:
    return row["name"].partition("-")[0], row["parameters"]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'preset':<25}{'parameters':>13}{'layers':>8}{'width':>7}{'context':>9}  about"]
    for row in rows:
        size = f"{row['parameters']:>13,}{row['layers']:>8}{row['width']:>7,}{row['context']:>9,}"
        lines.append(f"{row['name']:<25}{size}  {row['title']}")
    return "\n".join([*lines, "", "one of them whole, and what it costs: fledge presets NAME"])


def costs(row: dict[str, Any]) -> str:
    """As comments, so that the whole stays a file that can be trained."""
    lines = [
        f"{row['parameters']:,} parameters, {row['non_embedding_parameters']:,} without embeddings and head",
        f"{short(row['training_flops_per_token'])} operations to learn from a token,"
        f" {short(row['forward_flops_per_token'])} to read one",
        "in bfloat16:",
        f"  keys and values kept in generation: {human_bytes(row['cache_bytes_per_token'])} a token,"
        f" {human_bytes(row['cache_bytes'])} at most for a text",
        f"  activations kept in training: {human_bytes(row['activation_bytes'])}"
        f" for a micro-batch of {row['micro_batch']}",
    ]
    return "\n".join(f"# {line}" for line in lines)


def short(number: int) -> str:
    """1,234,567,890 → 1.23 billion"""
    for unit, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:,}"


MARKDOWN = """# Presets

Each is a file in `src/fledge/presets`, complete and meant to be read: `fledge presets NAME` prints it, with what it
costs. `fledge train NAME` trains it, on a corpus that is fetched when it is first needed. Where a vocabulary is one of
characters, it is that of tiny Shakespeare. What a part is called here is what it is called in `[model]`.

This page is made by `fledge presets --markdown > docs/presets.md`.

| preset | parameters | without embeddings, head | layers × width | heads | context | tokens | parts | corpus | source |
|---|--:|--:|--:|--:|--:|--:|---|---|---|
"""


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = MARKDOWN.splitlines()
    for row in rows:
        shared = f" ({row['kv_heads']} for keys)" if row["kv_heads"] != row["heads"] else ""
        cells = (
            f"`{row['name']}`",
            f"{row['parameters']:,}",
            f"{row['non_embedding_parameters']:,}",
            f"{row['layers']} × {row['width']:,}",
            f"{row['heads']} × {row['head_width']}{shared}",
            f"{row['context']:,}",
            f"{row['vocab_size']:,}",
            ", ".join(row["parts"]),
            row["corpus"],
            row["source"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
