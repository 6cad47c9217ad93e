"""fledge presets: list the presets, or show one of them in full."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fledge.cli.arguments import Parser
from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.files import human_bytes
from fledge.core.formatting import short_count

if TYPE_CHECKING:
    from fledge.settings.presets import PresetInfo

EXAMPLES = (
    "fledge presets",
    "fledge presets demo",
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="PRESET", help="show this preset in full, and what it costs")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, as in docs/presets.md")


def run(args: argparse.Namespace) -> None:
    from fledge.settings.presets import describe_preset, list_presets, preset_text

    if args.markdown and (args.name or args.json):
        raise UserError("--markdown prints the whole table", "leave out the name and --json, or --markdown")
    if args.name is None:
        presets = list_presets()
        text = markdown(presets) if args.markdown else table(presets)
        report(presets, as_json=args.json, text=text)
        return
    toml = preset_text(args.name)
    preset = describe_preset(args.name)
    report(preset, as_json=args.json, text=f"{toml}\n\n{describe_costs(preset)}")


def table(presets: Sequence["PresetInfo"]) -> str:
    lines = [f"{'preset':<25}{'parameters':>13}{'layers':>8}{'width':>7}{'context':>9}  about"]
    for each in presets:
        size = f"{each.parameters:>13,}{each.layers:>8}{each.width:>7,}{each.context:>9,}"
        lines.append(f"{each.name:<25}{size}  {each.title}")
    return "\n".join([*lines, "", "one preset in full, and what it costs: fledge presets NAME"])


def describe_costs(preset: "PresetInfo") -> str:
    """As TOML comments, so that the output is a file that can be trained."""
    lines = [
        f"{preset.parameters:,} parameters, {preset.non_embedding_parameters:,} without embeddings and head",
        f"{short_count(preset.training_flops_per_token)} FLOPs per token in training,"
        f" {short_count(preset.forward_flops_per_token)} in a forward pass",
        "in bfloat16:",
        f"  KV cache: {human_bytes(preset.cache_bytes_per_token)} per token,"
        f" {human_bytes(preset.cache_bytes)} for a full context",
        f"  activations in training: {human_bytes(preset.activation_bytes)} for a micro-batch of {preset.micro_batch}",
    ]
    return "\n".join(f"# {line}" for line in lines)


MARKDOWN = """# Presets

Each preset is a complete, readable file in `src/fledge/presets`: `fledge presets NAME` prints it with what it costs,
`fledge train NAME` trains it. Its corpus is downloaded when it is first needed. For character presets `tokens`
counts the characters of tiny Shakespeare. The parts have the names that they have in `[model]`.

Made by `fledge presets --markdown > docs/presets.md`.

| preset | parameters | without embeddings, head | layers × width | heads | context | tokens | parts | corpus | source |
|---|--:|--:|--:|--:|--:|--:|---|---|---|
"""


def markdown(presets: Sequence["PresetInfo"]) -> str:
    lines = MARKDOWN.splitlines()
    for each in presets:
        shared = f" ({each.kv_heads} key/value heads)" if each.kv_heads != each.heads else ""
        cells = (
            f"`{each.name}`",
            f"{each.parameters:,}",
            f"{each.non_embedding_parameters:,}",
            f"{each.layers} × {each.width:,}",
            f"{each.heads} × {each.head_width}{shared}",
            f"{each.context:,}",
            f"{each.vocab_size:,}",
            ", ".join(each.parts),
            each.corpus,
            each.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
