"""fledge eval: how good is a model on text that it has not learned from?"""

import argparse
from dataclasses import asdict

from fledge.cli.output import report
from fledge.core import device as machines
from fledge.core.distributed import World, init_distributed
from fledge.core.errors import UserError
from fledge.core.progress import progress
from fledge.datasets.cache import open_dataset_at
from fledge.evaluation.loss import evaluate_loss
from fledge.runs.run_folder import open_run
from fledge.settings.pipeline import validated
from fledge.tokenizers.base import byte_lengths, fingerprint


def run(args: argparse.Namespace) -> None:
    with init_distributed() as world:
        _run(args, world)


def _run(args: argparse.Namespace, world: World) -> None:
    device = machines.choose_device(args.device).value
    loaded = open_run(args.run, args.runs, default="best").load()
    settings = validated(loaded.run.config())
    data = args.data or settings.data.path
    if data is None:
        raise UserError(
            f"'{loaded.run.name}' was not trained here, so no dataset is its own",
            f"name one, made with --tokenizer {loaded.run.folder / 'tokenizer.json'}: --data DIR",
        )
    with world.main_process_first("text"):
        dataset = open_dataset_at(str(data), lambda: loaded.tokenizer)
    if fingerprint(dataset.tokenizer) != fingerprint(loaded.tokenizer):
        raise UserError(
            f"'{dataset.folder}' was made with another tokenizer than '{loaded.run.name}'",
            f"prepare it with --tokenizer {loaded.run.folder / 'tokenizer.json'}",
        )
    # In the precision of the training, where the hardware has it: then the figures are those of the run.
    dtype = settings.train.dtype if machines.has_bf16_units(device) else "float32"
    machine = machines.choose_machine(device, dtype, world)
    found = evaluate_loss(
        loaded.model.to(machine.device),
        dataset.split(args.split),
        byte_lengths(loaded.tokenizer),
        machine,
        progress=lambda windows: progress(windows, "judging"),
    )
    answer = {"run": loaded.run.name, "step": loaded.checkpoint.step, **asdict(found), "dtype": machine.dtype}
    words = (
        f"{loaded.run.name} at step {loaded.checkpoint.step:,}, {found.split} split:"
        f" {found.tokens:,} tokens in windows of {found.context}\n"
        f"  loss           {found.loss:.4f} nats per token\n"
        f"  perplexity     {found.perplexity:.3f}\n"
        f"  bits per byte  {found.bits_per_byte:.4f}\n"
        f"  accuracy       {found.accuracy:.4f}  (share of tokens that were the first guess)"
    )
    report(answer, as_json=args.json, text=words)
