"""Where does a text come from? Its matches in the training data, their documents, and the steps that learned them.

text → ids → longest matches (suffix_array.py) → documents → training steps (provenance.py) → loss before and after
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.datasets.shards import Dataset
from fledge.insight.provenance import Exposure, Provenance
from fledge.insight.suffix_array import Ints, SuffixArray, covered, maximal_spans
from fledge.insight.token_loss import token_loss
from fledge.insight.verdict import SEPARATOR, Evidence, Verdict, chance_length
from fledge.model.gpt import GPT
from fledge.runs.run_folder import RunFolder
from fledge.tokenizers.streaming import TextStreamer

MAX_TOKENS = 4096  # of a text
TRACED = 100  # occurrences of a match whose steps are looked up
SHOWN = 5  # occurrences that are shown with their context
ORDINARY_SHOWN = 3  # matches that are shown where none is long
AROUND = 60  # tokens shown before and after a match
CAVEAT = (
    "A match is not a cause: the model may have learned these words elsewhere, or put them together itself. It also"
    " learns from passages that differ in a word, which no exact search finds."
)


@dataclass(frozen=True)
class Occurrence:
    """One place in the training data where the match stands."""

    position: int  # of its first token, in the training split
    document: int  # its number in the split, from 0
    offset: int  # of its first token, in the document
    before: str
    text: str
    after: str
    exposures: list[Exposure]  # the steps that learned it here


@dataclass(frozen=True)
class CheckpointLoss:
    """Loss of the passage in its document, in nats per token."""

    step: int
    loss: float


@dataclass(frozen=True)
class Match:
    """A passage of the text that stands word for word in the training data."""

    first: int  # tokens first … stop - 1 of the text
    stop: int
    text: str
    count: int  # in the training data
    ordinary: bool  # so short that unseen texts have such matches, too
    steps: list[int]  # that learned it, at the first TRACED occurrences
    occurrences: list[Occurrence]
    losses: list[CheckpointLoss] = field(default_factory=list)  # at the first occurrence; empty: not computed

    def loss_around(self, step: int) -> tuple[CheckpointLoss | None, CheckpointLoss | None]:
        """At the last checkpoint before the step, and at the first one after it."""
        before = [each for each in self.losses if each.step < step]
        after = [each for each in self.losses if each.step >= step]
        return (before[-1] if before else None), (after[0] if after else None)


@dataclass(frozen=True)
class TextOrigin:
    """What is known about the origin of a text. `tokens`: their texts; joined, they are the whole."""

    run: str
    step: int  # of the checkpoint; later steps are left out
    tokens: list[str]
    verdict: Verdict
    explanation: str
    copied: float  # share of the tokens that are in a match of at least `minimum` tokens that some step learned
    minimum: int
    matches: list[Match]  # the longest first
    caveat: str = CAVEAT


def trace(
    provenance: Provenance, array: SuffixArray, text: str | Sequence[int], minimum: int | None = None
) -> TextOrigin:
    """Find the matches of a text, or of the ids of a generated one.

    minimum: tokens of a match that counts as copied; None: measured on the validation split.
    """
    ids, tokens = split_text(provenance.dataset, text)
    refuse_length(len(ids))
    compared, least = (None, minimum) if minimum is not None else chance_length(array, provenance.dataset, len(ids))
    step = provenance.run.checkpoint(weights_only=True).step
    longest = array.longest_matches(ids)
    spans = sorted(maximal_spans(longest), key=lambda span: (span[0] - span[1], span[0]))
    long = [span for span in spans if span[1] - span[0] >= least]
    matches = [
        _match(provenance, array, ids, span, step, ordinary=span[1] - span[0] < least)
        for span in long or spans[:ORDINARY_SHOWN]
    ]
    evidence = Evidence(step, least, compared, len(ids), _share([each for each in matches if each.steps], len(ids)))
    evidence = replace(evidence, unlearned=_share(matches, len(ids)) - evidence.copied)
    return TextOrigin(
        run=provenance.run.name,
        step=step,
        tokens=tokens,
        verdict=evidence.verdict,
        explanation=evidence.explanation,
        copied=evidence.copied,
        minimum=least,
        matches=matches,
        caveat=CAVEAT + started_from(provenance.run),
    )


def _share(matches: Sequence[Match], length: int) -> float:
    """Of the tokens of a text, in matches that are longer than those of unseen text."""
    return float(covered([(each.first, each.stop) for each in matches if not each.ordinary], length).mean())


def started_from(run: RunFolder) -> str:
    """What is not searched, where the run began with the weights of another one."""
    init = run.metadata().get("init")
    return f" '{run.name}' began with the weights of '{init}': what those learned from is not searched." if init else ""


def split_text(dataset: Dataset, text: str | Sequence[int]) -> tuple[list[int], list[str]]:
    """The ids and the text of each token. A character that the vocabulary does not hold is a token without a match."""
    if not isinstance(text, str):
        ids = [int(token) for token in text]
        return ids, token_texts(dataset, ids)
    try:
        ids = dataset.tokenizer.encode(text).tolist()
    except UserError:
        if dataset.tokenizer.kind != "char":
            raise
        known = {dataset.tokenizer.decode([token]): token for token in range(dataset.tokenizer.vocab_size)}
        return [known.get(character, SEPARATOR) for character in text], list(text)
    return ids, token_texts(dataset, ids)


def refuse_length(tokens: int) -> None:
    if not tokens:
        raise UserError("the text is empty", "give a passage of at least a few words")
    if tokens > MAX_TOKENS:
        raise UserError(f"the text has {tokens:,} tokens: at most {MAX_TOKENS:,} are looked up", "give a part of it")


def token_texts(dataset: Dataset, ids: Sequence[int]) -> list[str]:
    """The text that each token completes, so that joined they are the text."""
    streamer = TextStreamer(dataset.tokenizer)
    texts = [streamer.add(token) for token in ids]
    return [*texts[:-1], texts[-1] + streamer.end()] if texts else []


def _match(
    provenance: Provenance, array: SuffixArray, ids: Sequence[int], span: tuple[int, int], until: int, *, ordinary: bool
) -> Match:
    length = span[1] - span[0]
    found = array.find(ids[slice(*span)], TRACED)
    learned = [provenance.exposures(position, position + length, until) for position in found.positions.tolist()]
    steps = sorted({each.step for exposures in learned for each in exposures})
    order = sorted(range(len(learned)), key=lambda row: not learned[row])[:SHOWN]  # those that were learned first
    return Match(
        first=span[0],
        stop=span[1],
        text=provenance.dataset.tokenizer.decode(ids[slice(*span)]),
        count=found.count,
        ordinary=ordinary,
        steps=steps,
        occurrences=[_occurrence(array, provenance, int(found.positions[row]), length, learned[row]) for row in order],
    )


def _occurrence(
    array: SuffixArray, provenance: Provenance, position: int, length: int, exposures: list[Exposure]
) -> Occurrence:
    document, begin, end = array.document_of(position)
    first, stop = max(begin, position - AROUND), min(end, position + length + AROUND)

    def text(start: int, end: int) -> str:
        return provenance.dataset.tokenizer.decode(array.split.read(start, end - start).tolist())

    before, after = text(first, position).lstrip("\ufffd"), text(position + length, stop).rstrip("\ufffd")
    passage = text(position, position + length)
    return Occurrence(position, document, position - begin, before, passage, after, exposures)


def with_losses(
    origin: TextOrigin,
    provenance: Provenance,
    array: SuffixArray,
    progress: Callable[[Sequence[store.Checkpoint]], Iterable[store.Checkpoint]] = iter,
) -> TextOrigin:
    """The same, with the loss of each match at every checkpoint up to the origin's."""
    passages = [(match.occurrences[0].position, match.stop - match.first) for match in origin.matches]
    losses = passage_losses(provenance, array, passages, origin.step, progress)
    matches = [replace(match, losses=each) for match, each in zip(origin.matches, losses, strict=True)]
    return replace(origin, matches=matches)


def passage_losses(
    provenance: Provenance,
    array: SuffixArray,
    passages: Sequence[tuple[int, int]],
    until: int,
    progress: Callable[[Sequence[store.Checkpoint]], Iterable[store.Checkpoint]] = iter,
    load: Callable[[int], GPT] | None = None,
) -> list[list[CheckpointLoss]]:
    """The loss of passages (first token, length) at every checkpoint up to a step, each loaded once.

    A passage is read in its document, with as much text before it as fits in the context; of one that is longer than
    the context the end counts. load: gives the model of a step, instead of reading its checkpoint.
    """
    context, run = provenance.settings.model.context, provenance.run
    rows = [_in_document(array, position, length, context) for position, length in passages]
    losses: list[list[CheckpointLoss]] = [[] for _ in passages]
    steps = [each for each in store.complete_checkpoints(run.checkpoints) if 0 < each.step <= until]
    for checkpoint in progress(steps if passages else []):
        try:
            step = checkpoint.step
            model = load(step) if load else RunFolder(run.folder, str(step)).load().model
        except UserError:
            continue  # damaged, or removed by training since
        for found, (ids, length) in zip(losses, rows, strict=True):
            each = token_loss(model, torch.from_numpy(ids))[-length:]
            if len(each):
                found.append(CheckpointLoss(checkpoint.step, float(each.mean())))
    return losses


def _in_document(array: SuffixArray, position: int, length: int, context: int) -> tuple[Ints, int]:
    """The ids that the model reads, and how many of them at the end belong to the passage."""
    _, begin, _ = array.document_of(position)
    stop = position + length
    first = max(begin, stop - context)
    return array.split.read(first, stop - first), min(length, stop - first - 1)
