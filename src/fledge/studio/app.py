"""The studio's app: static pages, the JSON routes, and what lies before them.

    security headers → Host, Origin, token (header or cookie) → size of the body → routes

The token is in the URL once, when the page is opened. The page gets it as a cookie, and takes it out of the URL.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fledge import __version__
from fledge.studio.routes import PAGES
from fledge.studio.state import Studio
from fledge.web.access import Access, protect
from fledge.web.body import BodyLimit
from fledge.web.errors import handle_errors

STATIC = Path(__file__).with_name("static")
PUBLIC = ("/", "/static/", "/health")  # without a token; `/` asks for it itself
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types lit-html",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the first URL has the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def make_app(studio: Studio, access: Access) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        studio.engines.close()

    app = FastAPI(
        title="fledge studio",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.studio = studio
    handle_errors(app)
    for page in PAGES:
        app.include_router(page.router)
    add_pages(app, access)
    app.add_middleware(BodyLimit)
    protect(app, access)
    app.add_middleware(SecurityHeaders)  # also on what is refused
    return app


def add_pages(app: FastAPI, access: Access) -> None:
    @app.get("/", include_in_schema=False)
    def index(request: Request, token: str = "") -> Response:
        if access.is_token(token):
            page = FileResponse(STATIC / "index.html")
            page.set_cookie(access.cookie, token, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
            return page
        if access.is_token(request.cookies.get(access.cookie, "")):
            return FileResponse(STATIC / "index.html")
        return FileResponse(STATIC / "token.html", status_code=401)

    @app.get("/api", include_in_schema=False)
    def routes() -> Response:
        return FileResponse(STATIC / "api.html")

    @app.get("/health", include_in_schema=False)
    def health() -> dict[str, str]:
        return {"status": "ok"}

    app.mount("/static", StaticFiles(directory=STATIC))


class SecurityHeaders:
    """Puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
