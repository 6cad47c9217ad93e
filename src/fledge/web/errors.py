"""Errors of a server, in the shape that OpenAI's clients read.

    {"error": {"message": "max_tokens: …", "type": "invalid_request_error", "param": "max_tokens", "code": null}}

Raise `ApiError` for a status; a `UserError` from below is a 400. What a client sends never gives a status of 500.
"""

import errno
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from fledge.core import fast_json
from fledge.core.errors import UserError, to_user_error

OF_A_NAME = (errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # that a client has sent, or lost
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message = self.message.encode(errors="replace").decode()  # half of a surrogate pair cannot be sent
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        content = fast_json.dumps(self.body())
        return Response(content, self.status, self.headers, media_type="application/json")


def handle_errors(app: FastAPI) -> None:
    """Answer every error of the app in this shape."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> Response:
        return ApiError(400, f"{error.message}; {error.hint}").response()

    @app.exception_handler(OSError)
    async def system_error(_: Request, error: OSError) -> Response:
        known = to_user_error(error)
        return ApiError(400 if error.errno in OF_A_NAME else 500, f"{known.message}; {known.hint}").response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        return invalid_body(error).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"there is no {request.url.path} here" if error.status_code == 404 else str(error.detail)
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)  # a defect of ours; its traceback goes to the log
    async def server_error(*_: object) -> Response:
        return ApiError(500, "the server failed; its log says how").response()


def invalid_body(error: RequestValidationError) -> ApiError:
    """The first of pydantic's messages."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"][1:]]
    if first["type"] == "json_invalid" or not place:
        content_type = "the body must be a JSON object, sent as Content-Type: application/json"
        return ApiError(400, f"{content_type} ({first['msg']})")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{'.'.join(place)}: {message}", param=place[0])
