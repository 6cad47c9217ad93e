"""fledge import: somebody else's model → a run at step 0, to be asked, judged and trained on."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fledge.checkpoint.state import initial_state
from fledge.cli.output import report
from fledge.core.config import to_toml
from fledge.core.errors import UserError
from fledge.core.files import user_path
from fledge.exchange import huggingface, model_source, nanogpt
from fledge.exchange.model_source import ForeignModel, ModelFolder
from fledge.exchange.tensors import check_finite
from fledge.model.flops import parameters
from fledge.runs import metadata, run_folder
from fledge.runs.names import check_run_name, run_name_from
from fledge.settings.pipeline import validated
from fledge.text import sources as texts
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.create import pretrained_tokenizer
from fledge.training.config import Settings

CHECKPOINT = "ckpt.pt"
# How to train on, where nothing else is said: small steps, as what has been learned is easily lost.
GENTLE: dict[str, dict[str, Any]] = {
    "optim": {"lr": 3e-5, "min_lr": 3e-6, "warmup_steps": 50},
    "train": {"steps": 500, "batch": 8, "eval_every": 100, "sample_every": 100},
}


def run(args: argparse.Namespace) -> None:
    folder = destination(args.out, args.source, args.runs)
    found = read(args.source, given_tokenizer(args.tokenizer, args.characters))
    check_finite(found.weights, args.source)
    about = {**metadata.software_metadata(found.tokenizer), "imported": args.source, "kind": found.architecture}
    settings = settings_of(found, folder)
    start = initial_state(found.weights, settings.train.seed)
    made = run_folder.create_run(folder, to_toml(settings), about, found.tokenizer, start)
    count = parameters(found.model)
    answer = {"run": made.name, "folder": str(folder), "kind": found.architecture, "parameters": count}
    words = (
        f"'{made.name}' is a {found.architecture} of {count:,} parameters, with {found.tokenizer.vocab_size:,} tokens\n"
        f"next: fledge generate {made.name} --prompt … · fledge train --init {made.name} --data.corpus my-notes/"
    )
    report({**answer, "model": asdict(found.model)}, as_json=args.json, text=words)


def destination(out: str | None, source: str, runs: Path) -> Path:
    """A path where `out` is one; else a name among the runs, the source's own if none is given."""
    if out is not None and "/" in out:
        folder = user_path(out)
        check_run_name(folder.name)
    elif out is not None:
        check_run_name(out)
        folder = runs / out
    else:
        folder = runs / run_folder.free_name(runs, run_name_from(source.partition("@")[0]))
    run_folder.refuse_existing(folder)
    return folder


def given_tokenizer(named: str | None, characters: str | None) -> Tokenizer | None:
    """What stands in for a vocabulary that the source lacks."""
    if named and characters:
        raise UserError("--tokenizer and --characters both name a vocabulary", "give one of them")
    if characters:
        return CharTokenizer.train(document.text for document in texts.read_source(characters))
    if named == "gpt2":
        return pretrained_tokenizer(TokenizerConfig(kind="gpt2"))
    return pretrained_tokenizer(TokenizerConfig(file=named)) if named else None


def read(source: str, given: Tokenizer | None) -> ForeignModel:
    where = model_source.locate_model(source)
    if isinstance(where, ModelFolder):
        if huggingface.CONFIG not in where and CHECKPOINT in where:
            return nanogpt.read_nanogpt(where.path(CHECKPOINT), given)
        return huggingface.read_hf_folder(where, given)
    if where.suffix == ".gguf":
        from fledge.exchange import gguf

        return gguf.read_gguf(where, given)
    if where.suffix != ".pt":
        raise UserError(
            f"'{source}' is no file that holds a whole model",
            "give a folder with config.json, nanoGPT's ckpt.pt, or a .gguf",
        )
    return nanogpt.read_nanogpt(where, given)


def settings_of(found: ForeignModel, folder: Path) -> Settings:
    tokenizer = {"file": str((folder / "tokenizer.json").resolve())}
    return validated({"model": asdict(found.model), "tokenizer": tokenizer, **GENTLE})
