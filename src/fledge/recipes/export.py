"""fledge export: a run → files that other programs run. Checked before they appear."""

import argparse
from dataclasses import asdict
from pathlib import Path

from fledge.cli.output import report
from fledge.core.errors import UserError
from fledge.core.files import atomic_folder, human_bytes, user_path
from fledge.core.progress import notice
from fledge.exchange import custom_code, huggingface, model_card
from fledge.exchange.compatibility import UnsupportedArchitecture
from fledge.exchange.parity import Parity
from fledge.recipes.eject import render_model, run_settings
from fledge.runs.run_folder import LoadedCheckpoint, open_run

DTYPE = "f16"  # of a GGUF: what llama.cpp's own converter makes


def run(args: argparse.Namespace) -> None:
    if args.to == "hf" and args.dtype not in (None, "f32"):
        raise UserError(f"--dtype {args.dtype} is for --to gguf", "files for Hugging Face hold every number whole")
    out = user_path(args.out)
    if out.exists():
        raise UserError(f"'{out}' exists already", "choose another --out, or remove it first")
    loaded = open_run(args.run, args.runs, default="best").load()
    with atomic_folder(out) as folder:
        kind, parity = to_gguf(loaded, folder, args.dtype or DTYPE) if args.to == "gguf" else to_hf(loaded, folder)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    answer = {"run": loaded.run.name, "step": loaded.checkpoint.step, "to": args.to, "kind": kind, "folder": str(out)}
    report(
        {**answer, "files": sizes, **asdict(parity)}, as_json=args.json, text=in_words(loaded, kind, out, sizes, parity)
    )


def to_hf(loaded: LoadedCheckpoint, folder: Path) -> tuple[str, Parity]:
    try:
        kind = huggingface.write_hf_folder(folder, loaded.model, loaded.tokenizer)
    except UnsupportedArchitecture as error:
        notice(f"{error.message}: its own code goes along, and is loaded with trust_remote_code=True ({error.hint})")
        return to_hf_with_code(loaded, folder)
    parity = huggingface.check_hf_folder(folder, loaded.model, loaded.tokenizer, kind)
    (folder / "README.md").write_text(model_card.transformers_card(loaded, kind, parity), encoding="utf-8")
    return kind, parity


def to_hf_with_code(loaded: LoadedCheckpoint, folder: Path) -> tuple[str, Parity]:
    code = render_model(loaded.run.name, run_settings(loaded.run))
    kind = custom_code.write_custom_code(folder, loaded.model, loaded.tokenizer, code)
    parity = custom_code.check_custom_code(folder, loaded.model)
    (folder / "README.md").write_text(model_card.transformers_card(loaded, kind, parity, code=True), encoding="utf-8")
    return kind, parity


def to_gguf(loaded: LoadedCheckpoint, folder: Path, dtype: str) -> tuple[str, Parity]:
    from fledge.exchange import gguf

    file = folder / f"{loaded.run.name}-{dtype}.gguf"
    kind = gguf.write_gguf(file, loaded.model, loaded.tokenizer, dtype, loaded.run.name)
    parity = gguf.check_gguf(file, loaded.model, loaded.tokenizer, dtype)
    (folder / "README.md").write_text(model_card.llama_cpp_card(loaded, file.name, kind, parity), encoding="utf-8")
    return kind, parity


def in_words(loaded: LoadedCheckpoint, kind: str, out: Path, sizes: dict[str, int], parity: Parity) -> str:
    lines = [f"'{loaded.run.name}' at step {loaded.checkpoint.step:,} is a {kind} in {out}"]
    lines += [f"  {name:<28}{human_bytes(size):>10}" for name, size in sizes.items()]
    return "\n".join([*lines, f"checked: {parity.summary}"])
