"""Playground: texts and chats of a model, token by token, and the answers of an alignment run through training."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool

from fledge.checkpoint import store
from fledge.core.errors import UserError
from fledge.inference.request import Request
from fledge.model.flops import parameter_count
from fledge.runs.methods import method_of, refuse_reward_model
from fledge.runs.run_folder import RunFolder
from fledge.runs.status import logged_metrics
from fledge.studio.engines import TextModel
from fledge.studio.generation import GenerateBody, make_request, read_prompt, stream
from fledge.studio.state import StudioState
from fledge.tracking.sinks.csv import STEP
from fledge.tracking.sinks.jsonl import read_events
from fledge.web.errors import ApiError
from fledge.web.event_stream import EventStream
from fledge.web.worker import Job, QueueFull

T = TypeVar("T")
router = APIRouter(prefix="/api/playground", tags=["playground"])
MAX_SAMPLES, MAX_POINTS = 500, 2000  # more of a long run are thinned out evenly


@dataclass(frozen=True)
class ModelInfo:
    """What the page needs to know before a model is loaded."""

    run: str
    step: int  # of the checkpoint that the reference means
    steps: list[int]  # of all checkpoints
    best_step: int | None
    method: str  # pretrain, sft, reward, dpo, ppo, grpo or reinforce
    parameters: int
    context: int
    vocab_size: int
    tokenizer: str
    roles: list[str]  # of a chat; empty: it was not trained on conversations
    prompt: str  # that the run's own samples continue
    problem: str  # why it writes no text; empty: it does


@dataclass(frozen=True)
class EpisodeSample:
    step: int
    prompt: str
    answer: str
    reward: float | None


@dataclass(frozen=True)
class Episodes:
    """samples: the answers to one question through training. curves: metric → [[step, value], …]"""

    run: str
    method: str
    samples: list[EpisodeSample]
    curves: dict[str, list[tuple[int, float]]]


@router.get("/model")
def describe_model(studio: StudioState, run: str = "") -> ModelInfo:
    """What a run's model is, and its checkpoints. Nothing is loaded."""
    folder = studio.open(run)
    checkpoints = store.complete_checkpoints(folder.checkpoints)
    best, config, template = store.best_of(checkpoints), folder.model_config(), folder.chat_template()
    problem = ""
    try:
        refuse_reward_model(folder)
    except UserError as error:
        problem = f"{error.message}; {error.hint}"
    prompt = folder.config().get("track", {}).get("prompt")
    return ModelInfo(
        run=run.rpartition("@")[0] or run or folder.name,
        step=step_of(folder, checkpoints),
        steps=[each.step for each in checkpoints],
        best_step=best.step if best else None,
        method=method_of(folder),
        parameters=parameter_count(config),
        context=config.context,
        vocab_size=config.vocab_size or 0,
        tokenizer=folder.tokenizer().kind,
        roles=list(template.roles) if template else [],
        prompt=prompt if isinstance(prompt, str) else "",
        problem=problem,
    )


def step_of(folder: RunFolder, checkpoints: list[store.Checkpoint]) -> int:
    """The step of the checkpoint that the reference means; UserError where there is none."""
    if folder.selector.isdecimal() and any(str(each.step) == folder.selector for each in checkpoints):
        return int(folder.selector)
    return store.find_checkpoint(folder.checkpoints, folder.selector, weights_only=True)[0].step


@router.post("/generate", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
async def generate(studio: StudioState, body: GenerateBody) -> Response:
    """Continue a text, or answer a conversation, as server-sent events. Closing the connection ends the computation.

    begin: run, step, and the tokens of the prompt as the model reads them. prompt: their probabilities. tokens: new
    ones, with probabilities and alternatives. end: why the text ended, and how long it took. error: in words.
    """
    model = await studio.engines.get(lambda: studio.load(body.run))
    with model.in_use():
        prompt = await run_in_threadpool(read_prompt, body, model)
        job = submit(model, make_request(body, prompt, model))
    return EventStream(stream(job, prompt, model, studio.stopping), closing(model, job))


def submit(model: TextModel, request: Request) -> Job:
    try:
        return model.worker.submit([request], stream=True)
    except QueueFull:
        raise ApiError(429, "this model is busy with other texts: stop one of them, or try again later") from None


@contextlib.contextmanager
def closing(model: TextModel, job: Job) -> Iterator[None]:
    try:
        yield
    finally:
        model.worker.close(job)


@router.get("/episodes")
def list_episodes(studio: StudioState, run: str = "") -> Episodes:
    """The answers of an alignment run through training, with their rewards, and the curves of its rewards."""
    folder = studio.open(run)
    samples = [
        EpisodeSample(int(each["step"]), str(each["prompt"]), str(each["text"]), each.get("reward"))
        for each in read_events(folder.folder)
        if each["event"] == "Sample"
    ]
    metrics = logged_metrics(folder)
    curves = {
        name: [(int(s), v) for s, v in zip(metrics[STEP], values, strict=True) if v == v]
        for name, values in metrics.items()
        if "reward" in name or name.endswith(("/kl", "/accuracy", "/margin", "/length"))
    }
    name = run.rpartition("@")[0] or run or folder.name
    curves = {name: thinned(curve, MAX_POINTS) for name, curve in curves.items() if curve}
    return Episodes(name, method_of(folder), thinned(samples, MAX_SAMPLES), curves)


def thinned(items: list[T], count: int) -> list[T]:
    """At most `count` of them, evenly spread, the last one always among them."""
    stride = -(-len(items) // count) or 1
    return items[::-1][::stride][::-1]
