"""The OpenAI-compatible app: its routes, and what lies before them.

CORS → Host, Origin, token → log → size of the body → routes
"""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge import __version__
from fledge.core.progress import notice
from fledge.server import answers
from fledge.server.chat import chat
from fledge.server.completions import complete
from fledge.server.metrics import Metrics
from fledge.server.models import ServedModel, find_model
from fledge.server.schema import ChatRequest, CompletionRequest
from fledge.web.access import Access, protect
from fledge.web.body import BodyLimit
from fledge.web.errors import ApiError, handle_errors

QUIET = ("/health", "/metrics")  # asked every few seconds: not logged


def make_app(models: Mapping[str, ServedModel], access: Access, *, log: bool = True) -> FastAPI:
    """models: by the names that clients use."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for model in models.values():
            model.worker.start()
        yield
        for model in models.values():
            model.worker.stop()

    # Swagger's page would load scripts from another server.
    app = FastAPI(title="fledge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    metrics = Metrics(models)
    handle_errors(app)
    add_completions(app, models, metrics)
    add_models(app, models)
    add_status(app, models, metrics)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestLog, metrics=metrics, log=log)
    protect(app, access)
    return app


def add_completions(app: FastAPI, models: Mapping[str, ServedModel], metrics: Metrics) -> None:
    common: dict[str, Any] = {"responses": {**answers.STREAM, **answers.ERRORS}}

    @app.post("/v1/completions", response_model=answers.Completion, **common)
    async def completions(http: Request, body: CompletionRequest) -> Response:
        return await complete(http, body, models, metrics)

    @app.post("/v1/chat/completions", response_model=answers.ChatCompletion, **common)
    async def chat_completions(http: Request, body: ChatRequest) -> Response:
        return await chat(http, body, models, metrics)


def add_models(app: FastAPI, models: Mapping[str, ServedModel]) -> None:
    def describe(model: ServedModel) -> dict[str, Any]:
        about = {"id": model.name, "object": "model", "created": model.created, "owned_by": "fledge"}
        return {**about, "max_model_len": model.context}

    @app.get("/v1/models", response_model=answers.ModelList, responses=answers.ERRORS)
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [describe(model) for model in models.values()]}

    @app.get("/v1/models/{name:path}", response_model=answers.Model, responses=answers.ERRORS)
    async def one_model(name: str) -> dict[str, Any]:
        return describe(find_model(models, name))


def add_status(app: FastAPI, models: Mapping[str, ServedModel], metrics: Metrics) -> None:
    @app.get("/health", response_model=answers.Health, responses=answers.ERRORS)
    async def health() -> dict[str, str]:
        if not all(model.worker.is_healthy for model in models.values()):
            raise ApiError(503, "an engine has stopped")
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **answers.ERRORS})
    async def prometheus() -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


class RequestLog:
    """A line on stderr for each request, and its count by status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, log: bool) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # nothing was sent: the client has left

        async def send_and_note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.response(route, status)
            if self._log and scope["path"] not in QUIET:
                seconds = time.perf_counter() - began
                notice(f"{time.strftime('%H:%M:%S')} {scope['method']} {scope['path'][:80]!r} {status} {seconds:.3f} s")
