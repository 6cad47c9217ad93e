"""Who may call a server: names in the Host header, pages named by the Origin header, and a token.

A browser runs scripts of any web page. Such a page can send requests to servers on this machine. It is stopped by the
Origin header, or, where its domain name is made to point at this machine (DNS rebinding), by the Host header. An
address of numbers in the Host header is safe: no one can make it point elsewhere.
"""

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fledge.web.errors import ApiError


@dataclass(frozen=True)
class Access:
    host: str = "127.0.0.1"  # the address that the server listens on
    hosts: frozenset[str] = frozenset()  # further names that the Host header may hold
    origins: frozenset[str] = frozenset()  # pages that may call the server, as http://localhost:3000
    token: str | None = None
    cookie: str = ""  # name of the cookie that may hold the token, for the pages of this server
    public: tuple[str, ...] = ("/health",)  # paths, and folders that end with a slash, that need no token

    def allows_host(self, header: str) -> bool:
        name = host_name(header)
        if name is None:
            return False
        address = as_address(name)
        if address is not None and (address.is_loopback or not is_loopback(self.host)):
            return True
        own = () if is_loopback(self.host) else (socket.gethostname().lower(),)
        return name in {"localhost", self.host.lower(), *own, *(each.lower() for each in self.hosts)}

    def allows_origin(self, origin: str | None, host: str) -> bool:
        """No Origin header: not a browser, or a page of this server."""
        return origin is None or origin in self.origins or origin.partition("://")[2] == host

    def allows_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        return bool(self.cookie) and self.is_token(read_cookie(headers.get("cookie", ""), self.cookie))

    def is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self.token or "").encode())

    def is_public(self, path: str) -> bool:
        return path in self.public or any(p != "/" and p.endswith("/") and path.startswith(p) for p in self.public)

    def refusal(self, headers: Headers, path: str) -> ApiError | None:
        """Why a request is refused; None: it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.allows_host(host):
            name = host_name(host) or host
            return ApiError(403, f"the host '{name}' is not allowed: start the server with --allow-host {name}")
        if not self.allows_origin(origin, host):
            return ApiError(403, f"the origin '{origin}' is not allowed: start the server with --allow-origin {origin}")
        if self.token and not self.is_public(path) and not self.allows_token(headers):
            message = "this server needs its token: send the header 'Authorization: Bearer TOKEN'"
            return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None


class AccessMiddleware:
    """Refuses what `Access` does not allow."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._access.refusal(Headers(scope=scope), scope["path"])):
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def protect(app: FastAPI, access: Access) -> None:
    """Put the checks before everything that the app has so far; pages of allowed origins may read the answers."""
    app.add_middleware(AccessMiddleware, access=access)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=sorted(access.origins), allow_methods=["*"], allow_headers=["*"]
        )


def read_cookie(header: str, name: str) -> str:
    try:
        return SimpleCookie(header)[name].value
    except (CookieError, KeyError):
        return ""


def host_name(header: str) -> str | None:
    """The name or address in a Host header, without its port; None: it is malformed."""
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def as_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    address = as_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def known_origins(origins: Iterable[str]) -> frozenset[str]:
    """As browsers send them: without a slash at the end."""
    return frozenset(origin.rstrip("/") for origin in origins)
