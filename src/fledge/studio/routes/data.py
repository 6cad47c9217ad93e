"""Data: the documents that a run learned from, a search in them, and the batch of any step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter

from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.datasets.description import describe_text
from fledge.datasets.shards import Split
from fledge.insight.origin import token_texts
from fledge.insight.provenance import Provenance
from fledge.insight.suffix_array import Ints
from fledge.insight.text_search import SearchResult, search_text
from fledge.runs.status import last_saved_step
from fledge.studio.state import Studio, StudioState
from fledge.studio.training_data import IndexState

router = APIRouter(prefix="/api/data", tags=["data"])
PREVIEW = 60  # tokens of a document in the list
PAGE_TOKENS = 4000  # of a document at a time
MAX_ROWS = 200  # documents, hits or samples in an answer


@dataclass(frozen=True)
class SplitInfo:
    name: str
    tokens: int
    documents: int
    bytes: int | None  # of text; None: the dataset is of another program, which does not say


@dataclass(frozen=True)
class DataInfo:
    """What a run learned from."""

    run: str
    sources: list[str]
    description: str
    splits: list[SplitInfo]
    tokenizer: str
    vocab_size: int
    context: int
    batch: int
    steps: int  # that were planned
    trained: int  # steps of the newest checkpoint
    index: IndexState


@dataclass(frozen=True)
class DocumentInfo:
    number: int
    tokens: int
    start: int  # its first token in the split
    beginning: str


@dataclass(frozen=True)
class DocumentList:
    total: int
    documents: list[DocumentInfo]


@dataclass(frozen=True)
class DocumentPage:
    """A part of a document, token by token."""

    number: int
    total: int  # tokens of the whole document
    offset: int  # of the first token here
    start: int  # the first token of the document in the split
    ids: list[int]
    tokens: list[str]  # joined, they are the text


@dataclass(frozen=True)
class SampleTokens:
    """One row of a batch: context + 1 tokens, as each but the first is learned from those before it."""

    number: int
    rank: int
    micro_batch: int | None
    start: int
    documents: list[int]  # the document of each token
    tokens: list[str]


@dataclass(frozen=True)
class BatchPage:
    step: int
    batch: int  # samples of the whole batch
    ranks: list[int]  # over how many processes it can be split
    samples: list[SampleTokens]


@router.get("")
def describe_data(studio: StudioState, run: str = "") -> DataInfo:
    """What a run learned from: sources, splits, and the sizes of its batches."""
    folder = studio.open(run)
    data = studio.training_data
    provenance = data.open(folder)
    dataset, settings = provenance.dataset, provenance.settings
    about = dataset.manifest["splits"]
    splits = [
        SplitInfo(name, len(split), len(data.starts(dataset, split)), about[name].get("bytes"))
        for name, split in dataset.splits.items()
        if len(split)
    ]
    return DataInfo(
        run=folder.name,
        sources=[source_name(source) for source in dataset.manifest.get("sources", [])],
        description=describe_text(dataset),
        splits=splits,
        tokenizer=dataset.tokenizer.kind,
        vocab_size=dataset.tokenizer.vocab_size,
        context=settings.train_context,
        batch=settings.train.batch,
        steps=provenance.last_step,
        trained=last_saved_step(folder),
        index=data.index_state(dataset),
    )


def source_name(source: dict[str, Any]) -> str:
    """With the split that it is all of, if it is: 'test.txt (test)'."""
    return f"{source['name']} ({source['split']})" if "split" in source else str(source["name"])


@router.get("/documents")
def list_documents(
    studio: StudioState, run: str = "", split: str = "train", first: int = 0, count: int = 50
) -> DocumentList:
    """Documents of a split with their beginnings, a page at a time."""
    provenance, of, starts = _open(studio, run, split)
    ends = np.append(starts[1:], len(of))
    rows = range(max(0, first), min(len(starts), max(0, first) + min(max(0, count), MAX_ROWS)))
    documents = [
        DocumentInfo(
            row, int(ends[row] - starts[row]), int(starts[row]), _preview(provenance, of, starts[row], ends[row])
        )
        for row in rows
    ]
    return DocumentList(len(starts), documents)


@router.get("/document")
def read_document(
    studio: StudioState, number: int, run: str = "", split: str = "train", offset: int = 0, count: int = PAGE_TOKENS
) -> DocumentPage:
    """A document, token by token, up to 4,000 tokens at a time."""
    provenance, of, starts = _open(studio, run, split)
    if not 0 <= number < len(starts):
        raise UserError(
            f"there is no document {number}", f"the split has {counted(len(starts), 'document')}, from 0 on"
        )
    start = int(starts[number])
    total = (int(starts[number + 1]) if number + 1 < len(starts) else len(of)) - start
    offset = min(max(0, offset), total)
    ids = of.read(start + offset, min(max(0, count), PAGE_TOKENS, total - offset)).tolist()
    return DocumentPage(number, total, offset, start, ids, token_texts(provenance.dataset, ids))


@router.get("/search")
def search_documents(
    studio: StudioState, text: str, run: str = "", split: str = "train", limit: int = 50
) -> SearchResult:
    """Where an exact text stands: by the index, if it is built, else by reading the split for up to five seconds."""
    provenance, of, starts = _open(studio, run, split)
    array = studio.training_data.array(provenance.dataset) if split == "train" else None
    return search_text(provenance.dataset, of, starts, text, array, min(max(1, limit), MAX_ROWS))


@router.get("/batch")
def read_batch(
    studio: StudioState, step: int, run: str = "", ranks: int = 1, first: int = 0, count: int = 8
) -> BatchPage:
    """The batch that a step learned from, token by token, divided over `ranks` processes and their micro-batches."""
    provenance, of, starts = _open(studio, run, "train")
    batch, context = provenance.settings.train.batch, provenance.settings.train_context
    numbers = provenance.numbers_of(step)[max(0, first) :][: min(max(0, count), MAX_ROWS)]
    samples = []
    for sample in provenance.samples(numbers, ranks):
        places = np.arange(sample.start, sample.start + context + 1)
        documents = np.searchsorted(starts, places, side="right") - 1
        tokens = token_texts(provenance.dataset, of.read(sample.start, context + 1).tolist())
        where = (sample.number, sample.rank, sample.micro_batch, sample.start)
        samples.append(SampleTokens(*where, documents.tolist(), tokens))
    return BatchPage(step, batch, [count for count in range(1, batch + 1) if batch % count == 0], samples)


def _open(studio: Studio, run: str, split: str) -> tuple[Provenance, Split, Ints]:
    provenance = studio.training_data.open(studio.open(run))
    chosen = provenance.dataset.split(split)
    return provenance, chosen, studio.training_data.starts(provenance.dataset, chosen)


def _preview(provenance: Provenance, split: Split, start: int, end: int) -> str:
    ids = split.read(int(start), min(PREVIEW, int(end - start))).tolist()
    return provenance.dataset.tokenizer.decode(ids).rstrip("\ufffd")
