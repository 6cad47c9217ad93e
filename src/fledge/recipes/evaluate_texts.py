"""Measure the texts that a run generates: against references, for repetition, for copies of the training data."""

from dataclasses import asdict
from pathlib import Path

from fledge.core.distributed import SINGLE_PROCESS, World
from fledge.core.progress import progress
from fledge.datasets.shards import Dataset
from fledge.evaluation.continuations import TextMetrics, bytes_per_token, evaluate_texts, lengths_for
from fledge.evaluation.references import cut_references, read_references, reference_bytes_per_token
from fledge.evaluation.text_scores import require_libraries
from fledge.recipes.evaluate import has_dataset, load_checkpoint, open_eval_dataset
from fledge.recipes.load_engine import load_engine
from fledge.runs.evaluations import record_evaluation
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tokenizers.base import byte_lengths

SLOTS = 16  # texts that are generated at the same time
CONTINUATIONS = 64


def evaluate_generated(
    run: str | LoadedCheckpoint | None,
    references: Path | None = None,
    continuations: int = CONTINUATIONS,
    *,
    runs: Path = Path("runs"),
    split: str = "val",
    data: str | None = None,
    device: str = "auto",
    world: World = SINGLE_PROCESS,
) -> TextMetrics:
    """Generate greedily, in float32, and measure the texts.

    references: a JSONL file of prompts and references; None: so many passages of the split, cut in two.
    """
    require_libraries()
    loaded = load_checkpoint(run, runs)
    tokenizer, context = loaded.tokenizer, loaded.model.config.context
    dataset: Dataset | None = None
    if references is not None:
        pairs = read_references(references, tokenizer)
        lengths = lengths_for(reference_bytes_per_token(pairs, tokenizer), context)
        if has_dataset(loaded, data):
            dataset = open_eval_dataset(loaded, data, world)
    else:
        dataset = open_eval_dataset(loaded, data, world)
        source = dataset.split(split)
        lengths = lengths_for(bytes_per_token(source, byte_lengths(tokenizer)), context)
        pairs = cut_references(source, tokenizer, continuations, lengths.prompt, lengths.continuation)
    train = dataset.splits.get("train") if dataset else None
    engine = load_engine(loaded, slots=min(SLOTS, len(pairs)), device=device, dtype="float32").engine
    found = evaluate_texts(engine, tokenizer, pairs, lengths, train, progress)
    if world.is_main:
        kept = {name: value for name, value in asdict(found).items() if name != "samples"}
        of = {"references": None if references is None else str(references), "split": split, "data": data}
        record_evaluation(loaded.run, "texts", loaded.checkpoint.step, {**kept, **of})
    return found
