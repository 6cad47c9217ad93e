"""Before a build: the first documents as tokens, and an estimate of tokens, bytes and seconds from a few megabytes."""

import time
from dataclasses import dataclass

from fledge.datasets import shards
from fledge.datasets.build import BuildPlan
from fledge.datasets.splits import SplitRule
from fledge.text.summary import FileSummary

DOCUMENTS, TOKENS = 3, 12  # shown
SAMPLE_BYTES = 16 << 20  # of text, for the estimate


@dataclass(frozen=True)
class DocumentPreview:
    name: str
    tokens: list[tuple[int, bytes]]  # the first of them: id, its bytes
    complete: bool  # there are no more than these


@dataclass(frozen=True)
class Preview:
    files: FileSummary
    source_bytes: int
    split_rule: SplitRule
    held_out: dict[str, tuple[str, ...]]  # the sources of each split that has a text of its own
    documents: list[DocumentPreview]
    tokens: float  # estimates for the whole dataset
    dataset_bytes: float
    seconds: float
    workers: int
    parts: int
    finished_parts: int  # by an earlier, interrupted build


def preview(plan: BuildPlan, workers: int) -> Preview:
    """Encode a sample of the text."""
    text, tokenizer = plan.spec.text, plan.tokenizer
    documents: list[DocumentPreview] = []
    encoded = tokens = 0
    clock = [(0, time.perf_counter())]  # (bytes encoded, when)
    for chunk in text.sample(SAMPLE_BYTES):
        ids = tokenizer.encode(chunk.text)
        if chunk.start == 0 and len(documents) < DOCUMENTS:
            first = [(i, tokenizer.id_to_bytes(i)) for i in ids[:TOKENS].tolist()]
            documents.append(DocumentPreview(chunk.document, first, len(ids) <= TOKENS))
        encoded += chunk.end - chunk.start
        tokens += len(ids) + chunk.last
        clock.append((encoded, time.perf_counter()))
        if encoded >= SAMPLE_BYTES:
            break
    slow, begun = [mark for mark in clock[:-1] if mark[0] <= encoded / 2][-1]  # the first half fills the caches
    seconds = (clock[-1][1] - begun) / (encoded - slow) * text.unpacked(plan.bytes_left) / workers
    share = encoded / max(1, text.text_size) if encoded >= SAMPLE_BYTES else 1.0
    total = tokens / share * plan.kept_fraction
    return Preview(
        files=text.files,
        source_bytes=text.size,
        split_rule=plan.split_rule,
        held_out=plan.spec.data.held_out_sources(),
        documents=documents,
        tokens=total,
        dataset_bytes=total * shards.id_type(tokenizer.vocab_size).itemsize,
        seconds=seconds,
        workers=workers,
        parts=plan.parts,
        finished_parts=plan.finished,
    )
