"""fledge presets: the known GPTs, each a file that can be read and copied."""

import argparse
from dataclasses import replace
from typing import Any

from fledge.base.errors import UserError, nearest
from fledge.model.count import parameters
from fledge.recipes.screen import report
from fledge.recipes.settings import preset_files, read_preset, settle


def run(args: argparse.Namespace) -> None:
    files = preset_files()
    if args.name:
        if args.name not in files:
            raise UserError(
                f"unknown preset '{args.name}'", nearest(args.name, files) or f"there are: {', '.join(files)}"
            )
        report(describe(args.name), as_json=args.json, text=files[args.name].read_text(encoding="utf-8").rstrip())
        return
    rows = [describe(name) for name in files]
    lines = [f"{'preset':<26}{'parameters':>12}  about"]
    lines += [f"{row['name']:<26}{row['parameters']:>12,}  {row['title']}" for row in rows]
    report(rows, as_json=args.json, text="\n".join([*lines, "", "one of them whole: fledge presets NAME"]))


def describe(name: str) -> dict[str, Any]:
    layer, about = read_preset(name)
    settings = settle(layer)
    model = replace(settings.model, vocab_size=settings.model.vocab_size or settings.tokenizer.size)
    return {
        "name": name,
        "parameters": parameters(model),
        "title": about["title"],
        "source": about["source"],
        "layers": model.n_layer,
        "width": model.n_embd,
        "heads": model.n_head,
        "context": model.context,
    }
