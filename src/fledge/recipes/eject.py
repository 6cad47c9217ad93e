"""fledge eject: a preset or a run → one file of PyTorch that a person can read from top to bottom."""

import argparse
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from fledge.checkpoint import store
from fledge.cli.output import report
from fledge.core.errors import UserError, nearest
from fledge.core.files import user_path, write_atomic
from fledge.core.progress import notice
from fledge.exchange.eject import EjectPlan, eject
from fledge.model.flops import parameters
from fledge.recipes.presets import parts
from fledge.runs.run_folder import RunFolder, find_run, list_runs
from fledge.settings.pipeline import expected_vocab_size, preset_files, read_preset, resolve, validated
from fledge.training.config import Settings


@dataclass(frozen=True)
class EjectSource:
    """What is to be ejected, and for a run where its files are."""

    name: str
    settings: Settings
    weights: Path | None = None
    tokenizer: Path | None = None


def run(args: argparse.Namespace) -> None:
    out = user_path(args.out)
    if out.exists():
        raise UserError(f"'{out}' exists already", "choose another --out, or remove it first")
    found = eject_source(args.model, args.overrides, args.runs)
    settings = found.settings
    text = program(found.name, settings)
    write_atomic(out, text)
    lines, size = len(text.splitlines()), parameters(settings.model)
    answer = {"name": found.name, "file": str(out), "lines": lines, "parameters": size}
    answer |= {"weights": found.weights and str(found.weights), "tokenizer": found.tokenizer and str(found.tokenizer)}
    words = f"{out}: '{found.name}', a GPT of {size:,} parameters, in {lines} lines\nnext: {next_command(out, found)}"
    report(answer, as_json=args.json, text=words)


def program(name: str, settings: Settings) -> str:
    """The whole file for a model of this name."""
    train = settings.train
    if train.micro_batch == "auto":
        train = replace(train, micro_batch=None)  # the file has no room for finding out
    model = settings.model
    return eject(EjectPlan(title(name), ", ".join(parts(model)), model, settings.optim, train, settings.data))


def eject_source(name: str, overrides: list[str], runs: Path) -> EjectSource:
    run = find_run(name, runs, default="best")
    is_preset = name in preset_files() or name.endswith(".toml")
    if run and not overrides:
        if is_preset:
            notice(f"'{name}' is a run and a preset: this is the run")
        return of_run(run)
    if run and not is_preset:
        raise UserError(f"'{name}' is a run, and its settings are what they are", f"leave out {overrides[0]}")
    if not is_preset:
        known = [*preset_files(), *(each.name for each in list_runs(runs))]
        hint = nearest(name, known) or "'fledge presets' and 'fledge runs' list those there are"
        raise UserError(f"no preset and no run is called '{name}'", hint)
    settings = resolve(name, overrides)
    model = replace(settings.model, vocab_size=expected_vocab_size(settings, read_preset(name)[1]))
    return EjectSource(Path(name).stem, replace(settings, model=model))


def of_run(run: RunFolder) -> EjectSource:
    run.refuse_changed()
    checkpoint = run.checkpoint()
    weights, tokenizer = checkpoint.folder / store.WEIGHTS, run.tokenizer_file
    if not weights.exists():
        raise UserError(
            f"step {checkpoint.step} of '{run.name}' was saved in parts, and an ejected file reads one",
            f"let one process save it: fledge train --init {run.name}@{checkpoint.step}",
        )
    return EjectSource(run.name, settings_of(run), weights, tokenizer)


def settings_of(run: RunFolder) -> Settings:
    return replace(validated(run.config()), model=run.model_config())


def title(name: str) -> str:
    """A name that can stand in a line of the file, whatever it is made of."""
    return "".join(letter if letter.isalnum() or letter in "-_. " else "_" for letter in name)[:60]


def next_command(out: Path, found: EjectSource) -> str:
    words = ["python", str(out), "generate"]
    if not found.weights:
        words = ["python", str(out), "train", "book.txt", "--tokenizer", "tokenizer.json"]
    else:
        words += ["--weights", str(found.weights), "--tokenizer", str(found.tokenizer)]
    return shlex.join(words)
