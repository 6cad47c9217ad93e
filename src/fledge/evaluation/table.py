"""An evaluation as text for people: 80 columns, and each number says what it means."""

import math
import textwrap
from collections.abc import Iterator

from fledge.core.formatting import counted, printable, shorten
from fledge.evaluation.compare import TextComparison
from fledge.evaluation.continuations import TextMetrics
from fledge.evaluation.metrics import PositionLoss, SplitMetrics
from fledge.evaluation.random_batches import EstimatedMetrics

COLUMNS = 8  # of the loss by position


def split_table(metrics: SplitMetrics, vocab_size: int) -> str:
    uniform, unigram = math.log(vocab_size), metrics.unigram_loss
    rows = [
        ("loss", metrics.loss, "nats per token", f"a uniform guess: {uniform:.2f}; by token frequency: {unigram:.2f}"),
        ("perplexity", metrics.perplexity, "as unsure as among so many equally likely ones"),
        ("bits per byte", metrics.bits_per_byte, "comparable between tokenizers"),
        ("accuracy", metrics.accuracy, "fraction of tokens that were its best guess"),
        ("", metrics.unigram_accuracy, "if it always guessed the most frequent token"),
        ("top-5 accuracy", metrics.top5_accuracy, "fraction that were among its five best guesses"),
        (
            "calibration error",
            metrics.calibration_error,
            "mean gap between the probability of its best",
            "guess and how often that is right",
        ),
    ]
    scores = [
        ("precision", metrics.precision, metrics.precision_macro, "of a token's guesses, those right"),
        ("recall", metrics.recall, metrics.recall_macro, "of its occurrences, those guessed"),
        ("F1", metrics.f1, metrics.f1_macro, "harmonic mean of both"),
    ]
    lines = []
    for name, value, *notes in rows:
        lines += [f"  {name:<17} {value:>9.4f}  {notes[0]}", *(f"{'':<31}{note}" for note in notes[1:])]
    lines += ["", f"  {'':<17}  weighted   macro  (mean over tokens: by frequency; alike)"]
    lines += [f"  {name:<17} {weighted:>9.4f}  {macro:.4f}  {note}" for name, weighted, macro, note in scores]
    lines += ["", "  loss by the number of tokens before it in the window", *_position_rows(metrics.loss_by_position)]
    return "\n".join(lines)


def comparison_table(name: str, metrics: SplitMetrics, found: TextComparison) -> str:
    """name, metrics: of the other model."""
    lines = [
        f"  compared with {name}: {metrics.bits_per_byte:.4f} bits per byte there",
        f"  difference      {found.difference:+.4f} bits per byte (negative: less, which is better)",
    ]
    if not math.isnan(found.low):
        units = counted(found.units, found.unit)
        lines.append(f"  95 % interval   {found.low:+.4f} to {found.high:+.4f}, by a paired bootstrap over {units}")
    return "\n".join([*lines, *textwrap.wrap(found.verdict, 78, initial_indent="  ", subsequent_indent="  ")])


def text_table(found: TextMetrics) -> str:
    n, m = found.repetition_ngram, found.copied_ngram
    rows = [
        ("BLEU", f"{found.bleu:9.2f}", "0 to 100: words in common with the reference"),
        ("chrF", f"{found.chrf:9.2f}", "0 to 100: characters in common"),
        ("ROUGE-1", f"{found.rouge1:9.4f}", "F1 of words in common"),
        ("ROUGE-2", f"{found.rouge2:9.4f}", "F1 of pairs of words in common"),
        ("ROUGE-L", f"{found.rougeL:9.4f}", "F1 of the longest common subsequence"),
        ("repetition", f"{found.repetition:9.4f}", f"of runs of {n} tokens came before in the same text"),
        ("loops", f"{found.loops:9.4f}", "of the texts end by repeating themselves"),
    ]
    if found.copied is not None:
        rows.append(("copied", f"{found.copied:9.4f}", f"of runs of {m} tokens stand in the train split"))
    if found.copied_references is not None:
        rows.append(("", f"{found.copied_references:9.4f}", "the same of the references"))
    title = f"  {counted(found.texts, 'continuation')}, generated greedily: {found.tokens:,} tokens"
    lines = [title, *(f"  {name:<17} {value}  {note}" for name, value, note in rows), ""]
    for sample in found.samples[:1]:
        parts = (("prompt", sample.prompt), ("reference", sample.reference), ("generated", sample.generated))
        lines += [f"  {name:<9}  {shorten(printable(repr(text)[1:-1]), 67)}" for name, text in parts]
    return "\n".join(lines)


def estimate_table(model: str, found: EstimatedMetrics, split: SplitMetrics | None) -> str:
    """Estimates with their standard errors, and beside them ours of the whole split, where it was measured."""
    drawn = f"{counted(found.batches, 'random batch', 'random batches')} of {counted(found.batch_size, 'window')}"
    is_smol = found.definition == "smol-gpt"
    of = "smol-GPT's metrics of " if is_smol else ""
    lines = [
        f"{of}{model}, {found.split} split: estimates",
        f"  from {drawn} of {found.context} tokens, seed {found.seed}",
        f"  {'':<13}  estimate   standard error" + ("" if split is None else "   ours, whole split"),
    ]
    for name, each in found.metrics.items():
        shown = "F1" if name == "f1" else name.replace("_", " ")
        error = "-" if each.stderr is None else f"{each.stderr:.4f}"
        whole = "" if split is None else f"   {getattr(split, name):17.4f}"
        lines.append(f"  {shown:<13} {each.mean:9.4f}   {error:>14}{whole}")
    if is_smol:
        share = found.metrics["accuracy"].mean / found.context
        notes = (
            "precision, recall and F1: smol-GPT draws one token from the model's distribution at each position; ours"
            " are those of the most likely token.",
            f"accuracy: smol-GPT counts the right ones of those tokens in a window of {found.context}, {share:.4f} of"
            " them; ours is the fraction of tokens whose most likely guess is right.",
        )
        lines += [
            "",
            *(line for note in notes for line in textwrap.wrap(note, 78, initial_indent="  ", subsequent_indent="  ")),
        ]
    return "\n".join(lines)


def title(run: str, step: int, metrics: SplitMetrics) -> str:
    documents = counted(metrics.documents, "document")
    return (
        f"{run} at step {step:,}, {metrics.split} split:"
        f" {metrics.tokens:,} tokens in windows of {metrics.context}, {documents}"
    )


def _position_rows(buckets: list[PositionLoss]) -> Iterator[str]:
    for start in range(0, len(buckets), COLUMNS):
        row = buckets[start : start + COLUMNS]
        names = [f"{each.first}" if each.first == each.last else f"{each.first}–{each.last}" for each in row]
        widths = [max(7, len(name)) for name in names]
        yield "  " + "  ".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
        yield "  " + "  ".join(f"{each.loss:{width}.4f}" for each, width in zip(row, widths, strict=True))
