"""Before a build: the first documents as tokens, and an estimate of tokens, bytes and seconds from a few megabytes."""

import time
from dataclasses import dataclass

from fledge.datasets import shards
from fledge.datasets.build import BuildPlan, SplitBy
from fledge.text.formats import is_packed
from fledge.text.source_text import SourceText

DOCUMENTS, TOKENS = 3, 12  # shown
SAMPLE_BYTES = 16 << 20  # of text, for the estimate
COMPRESSION = 3  # assumed ratio of compressed text


@dataclass(frozen=True)
class DocumentPreview:
    name: str
    tokens: list[tuple[int, bytes]]  # the first of them: id, its bytes
    complete: bool  # there are no more than these


@dataclass(frozen=True)
class Preview:
    files: int
    source_bytes: int
    held_out: SplitBy | None  # how val and test are split off; None: they are empty
    documents: list[DocumentPreview]
    tokens: float  # estimates for the whole dataset
    dataset_bytes: float
    seconds: float
    workers: int
    parts: int
    finished_parts: int  # by an earlier, interrupted build


def preview(plan: BuildPlan, workers: int) -> Preview:
    """Encode a sample of the text."""
    text, tokenizer, data = plan.spec.text, plan.tokenizer, plan.spec.data
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
    seconds = (clock[-1][1] - begun) / (encoded - slow) * text_bytes(text, plan.bytes_left) / workers
    share = encoded / max(1, text_bytes(text, text.size)) if encoded >= SAMPLE_BYTES else 1.0
    total = tokens / share * plan.kept_fraction
    return Preview(
        files=len(text.inputs),
        source_bytes=text.size,
        held_out=plan.split_by if data.val or data.test else None,
        documents=documents,
        tokens=total,
        dataset_bytes=total * shards.id_type(tokenizer.vocab_size).itemsize,
        seconds=seconds,
        workers=workers,
        parts=plan.parts,
        finished_parts=plan.finished,
    )


def text_bytes(text: SourceText, stored: int) -> float:
    """Estimate of the bytes of text in `stored` bytes, some of which may be compressed."""
    packed = sum(each.size or 0 for each in text.inputs if is_packed(each))
    share = packed / max(1, sum(each.size or 0 for each in text.inputs))
    return stored * (1 + (COMPRESSION - 1) * share)
