"""Where did this come from? Texts looked up in the training data of a run, and the index that this needs."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from fledge.insight.origin import MAX_TOKENS, CheckpointLoss, TextOrigin, passage_losses, trace
from fledge.insight.provenance import Provenance
from fledge.insight.suffix_array import SuffixArray
from fledge.model.gpt import GPT
from fledge.runs.run_folder import split_reference
from fledge.studio.state import Studio, StudioState
from fledge.studio.training_data import IndexState
from fledge.web.errors import ApiError

router = APIRouter(prefix="/api/origin", tags=["origin"])


class IndexBody(BaseModel):
    run: str = Field(description="name of a run; NAME@STEP for one of its checkpoints")


class TraceBody(IndexBody):
    text: str = Field(max_length=200_000)
    minimum: int | None = Field(None, ge=1, description="tokens of a match that counts as copied; null: measured")


@router.get("/index")
def describe_index(studio: StudioState, run: str = "") -> IndexState:
    """Whether the training text of a run is indexed, and how far a build has come."""
    return studio.training_data.index_state(studio.training_data.open(studio.open(run)).dataset)


@router.post("/index")
def build_index(studio: StudioState, body: IndexBody) -> IndexState:
    """Begin to index the training text of a run: once, for every later search."""
    dataset = studio.training_data.open(studio.open(body.run)).dataset
    studio.training_data.build(dataset)
    return studio.training_data.index_state(dataset)


@router.post("/trace")
def trace_text(studio: StudioState, body: TraceBody) -> TextOrigin:
    """The matches of a text in the training data: their documents, and the steps that learned them."""
    provenance, array = open_index(studio, body.run)
    return trace(provenance, array, body.text, body.minimum)


@router.get("/losses")
def list_losses(studio: StudioState, position: int, length: int, run: str = "", until: int = 0) -> list[CheckpointLoss]:
    """The loss of a passage of the training data at every checkpoint up to the step `until`; 0: up to the newest."""
    provenance, array = open_index(studio, run)
    if position < 0 or not 1 <= length <= MAX_TOKENS or position + length > len(array.split):
        raise ApiError(400, "the training data has no such passage", param="position")
    name, passages = split_reference(run)[0] or provenance.run.name, [(position, length)]

    def load(step: int) -> GPT:
        return studio.load(f"{name}@{step}").model

    with studio.computing:
        steps = until or provenance.last_step
        return passage_losses(provenance, array, passages, steps, load=load)[0]


def open_index(studio: Studio, run: str) -> tuple[Provenance, SuffixArray]:
    provenance = studio.training_data.open(studio.open(run))
    array = studio.training_data.array(provenance.dataset)
    if array is None:
        raise ApiError(409, "the training text of this run is not indexed yet", code="no_index")
    return provenance, array
