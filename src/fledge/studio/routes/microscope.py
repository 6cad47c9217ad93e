"""Microscope: attention of every head, logit lens, loss of each token and scores of heads, at any checkpoint.

What was read at a checkpoint is kept for a while, so that the page can move through the checkpoints quickly. Texts come
in the body of a POST, as they may be long; nothing is changed by it.
"""

import contextlib
import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from torch import Tensor

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.insight.attention import AttentionHeads, attention_heads, head_scores, thumbnails
from fledge.insight.logit_lens import logit_lens
from fledge.insight.residual_stream import whole_stream
from fledge.insight.token_loss import token_loss
from fledge.runs.run_folder import LoadedCheckpoint, RunFolder
from fledge.studio.state import Studio, StudioState, checkpoint_key
from fledge.tokenizers.token_labels import token_labels
from fledge.tracking.sinks.base import complete_lines
from fledge.tracking.sinks.jsonl import EVENTS

T = TypeVar("T")
router = APIRouter(prefix="/api/microscope", tags=["microscope"])
MAX_TOKENS = 1024  # of a text that is shown; what is longer is cut
LENS_TOKENS = 5
SAMPLE_CHARACTERS = 600
THUMBNAIL = 64  # pixels of a head in the grid, at most
BINARY = "application/octet-stream"
GRID: dict[int | str, dict[str, Any]] = {
    200: {"content": {BINARY: {}}, "description": "uint8, 255 is 1: layers × heads × side × side (X-Shape)"}
}
HEAD: dict[int | str, dict[str, Any]] = {
    200: {"content": {BINARY: {}}, "description": "little-endian float32: a row of T for each of T tokens"}
}


@dataclass(frozen=True)
class CheckpointInfo:
    step: int
    val_loss: float | None


@dataclass(frozen=True)
class RunInfo:
    run: str
    step: int | None  # of the checkpoint that the reference means; None: there is none yet
    layers: int
    heads: int
    context: int
    checkpoints: list[CheckpointInfo]  # oldest first
    text: str  # to begin with: what the run wrote last


class TextAt(BaseModel):
    """A text, and the checkpoint that looks at it."""

    run: str
    step: int = Field(ge=0)
    text: str = Field(max_length=1_000_000)


class HeadAt(TextAt):
    layer: int = Field(ge=0)
    head: int = Field(ge=0)


@dataclass(frozen=True)
class TokenLosses:
    """losses: of each token, in nats, given those before it; the first has none."""

    tokens: list[str]
    losses: list[float | None]
    left_out: int  # tokens at the end of the text that were cut


@dataclass(frozen=True)
class Scores:
    """Of each head: layers × heads. On random tokens that are repeated once."""

    induction: list[list[float]]  # attention to the token that followed the same token before
    previous_token: list[list[float]]  # attention to the token before
    entropy: list[list[float]]  # of its attention, in nats


@dataclass(frozen=True)
class Lens:
    """Predictions after each layer, for the token after each position. labels: the text of every id in top_ids."""

    top_ids: list[list[list[int]]]  # layers × positions × 5
    top_probabilities: list[list[list[float]]]
    next_probability: list[list[float]]  # of the token that follows in the text: layers × (positions - 1)
    next_rank: list[list[int]]  # 1: it is the most likely one
    kl: list[list[float]]  # divergence of the last layer's prediction from this one, in nats
    labels: dict[int, str]


@dataclass(frozen=True)
class Reading:
    """What one checkpoint makes of one text."""

    tokens: TokenLosses
    heads: AttentionHeads
    grid: Tensor  # uint8 [L, H, S, S]


@router.get("")
def describe_run(studio: StudioState, run: str | None = None) -> RunInfo:
    """The checkpoints of a run (its best, unless the reference names another), and a text to begin with."""
    folder = studio.open(run)
    config, checkpoints = folder.model_config(), store.complete_checkpoints(folder.checkpoints)
    meant = store.matching(checkpoints, folder.selector)
    return RunInfo(
        run=folder.folder.relative_to(studio.runs).as_posix(),
        step=meant[-1].step if meant else None,
        layers=config.n_layer,
        heads=config.n_head,
        context=config.context,
        checkpoints=[CheckpointInfo(each.step, finite(each.val_loss)) for each in checkpoints],
        text=last_sample(folder),
    )


@router.post("/tokens")
def tokens(studio: StudioState, at: TextAt) -> TokenLosses:
    """The tokens of a text, with the loss of each."""
    return read(studio, at).tokens


@router.post("/grid", response_class=Response, responses=GRID)
def grid(studio: StudioState, at: TextAt) -> Response:
    """Small pictures of the attention of all heads: a pixel shows the largest of the weights that it covers."""
    return binary(read(studio, at).grid)


@router.post("/head", response_class=Response, responses=HEAD)
def head(studio: StudioState, at: HeadAt) -> Response:
    """The attention weights of one head: in row i, how much token i attends to each token."""
    heads = read(studio, at).heads
    layers, count = heads.queries.shape[:2]
    if at.layer >= layers or at.head >= count:
        raise UserError(
            f"there is no head {at.head} in layer {at.layer}", f"there are {layers} layers of {count} heads"
        )
    return binary(heads.head(at.layer, at.head))


@router.get("/scores")
def scores(studio: StudioState, run: str, step: int) -> Scores:
    """Which heads are induction heads, and which look one token back."""

    def compute(loaded: LoadedCheckpoint) -> tuple[Scores, int]:
        found = head_scores(loaded.model)
        return Scores(*map(rounded, (found.induction, found.previous_token, found.entropy))), found.entropy.nbytes

    return kept(studio, run, step, (), Scores, compute)


@router.post("/lens")
def lens(studio: StudioState, at: TextAt) -> Lens:
    """The logit lens: the most likely next tokens after each layer, and the probability of the one in the text."""

    def compute(loaded: LoadedCheckpoint) -> tuple[Lens, int]:
        found = logit_lens(loaded.model, encode(loaded, at.text)[0], LENS_TOKENS)
        predicted = found.top_ids.unique().tolist()
        answer = Lens(
            top_ids=found.top_ids.tolist(),
            top_probabilities=rounded(found.top_probabilities),
            next_probability=rounded(found.next_probability),
            next_rank=found.next_rank.tolist(),
            kl=rounded(found.kl),
            labels=dict(zip(predicted, token_labels(loaded.tokenizer, predicted), strict=True)),
        )
        return answer, 8 * found.top_ids.nbytes  # about: Python's numbers are large

    return kept(studio, at.run, at.step, (at.text,), Lens, compute)


def read(studio: Studio, at: TextAt) -> Reading:
    def compute(loaded: LoadedCheckpoint) -> tuple[Reading, int]:
        model, (ids, left_out) = loaded.model, encode(loaded, at.text)
        stream = whole_stream(model, ids)
        heads = attention_heads(model, ids, stream=stream)
        small = torch.stack([thumbnails(heads.weights(layer), THUMBNAIL) for layer in range(model.config.n_layer)])
        losses = [None, *map(finite, token_loss(model, ids, stream=stream).tolist())]
        labels = token_labels(loaded.tokenizer, ids.tolist())
        grid = (small.nan_to_num() * 255).round().to(torch.uint8)
        reading = Reading(TokenLosses(labels, losses, left_out), heads, grid)
        return reading, sum(each.nbytes for each in (heads.queries, heads.keys, grid))

    return kept(studio, at.run, at.step, (at.text,), Reading, compute)


def kept(
    studio: Studio,
    run: str,
    step: int,
    asked: tuple[str, ...],
    kind: type[T],
    compute: Callable[[LoadedCheckpoint], tuple[T, int]],
) -> T:
    """What `compute` gives at this checkpoint, with its size in bytes; from memory, where it was asked before."""
    reference = f"{run}@{step}"
    checkpoint = checkpoint_key(studio.open(reference))
    if checkpoint is None:
        raise UserError(f"the checkpoint of step {step:,} is no longer there", "choose another")
    key = (kind, checkpoint, *asked)
    found = studio.readings.get(key)
    if found is None:
        loaded = studio.load(reference)
        with studio.computing:
            found = studio.readings.get(key) or studio.readings.put(key, *compute(loaded))
    assert isinstance(found, kind)
    return found


def encode(loaded: LoadedCheckpoint, text: str) -> tuple[Tensor, int]:
    """The ids of as much of a text as can be shown, and how many are left out."""
    ids, shown = loaded.tokenizer.encode(text), min(MAX_TOKENS, loaded.model.config.context)
    if not len(ids):
        raise UserError("the text is empty", "type at least one character")
    return torch.from_numpy(ids[:shown].astype("int64")), max(0, len(ids) - shown)


def last_sample(run: RunFolder) -> str:
    """What the run wrote last; empty where it wrote nothing."""
    text = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if lines := deque((line for line in complete_lines(run.folder / EVENTS) if '"Sample"' in line), 1):
            event = json.loads(lines[0])
            text = f"{event['prompt']}{event['text']}"
    return text[:SAMPLE_CHARACTERS].encode(errors="replace").decode()


def binary(values: Tensor) -> Response:
    shape = ",".join(map(str, values.shape))
    return Response(values.contiguous().numpy().tobytes(), media_type=BINARY, headers={"X-Shape": shape})


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def rounded(values: Tensor) -> Any:
    """As nested lists with four digits after the point: JSON is shorter, and has no NaN."""
    return (values.double().nan_to_num() * 10_000).round().div(10_000).tolist()
