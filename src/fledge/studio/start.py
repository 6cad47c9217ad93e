"""Run the studio until a stop signal, and keep its token."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from fledge.core.device import choose_device
from fledge.core.errors import to_user_error
from fledge.core.files import cache_dir
from fledge.core.progress import notice
from fledge.studio.app import PUBLIC, make_app
from fledge.studio.state import Studio
from fledge.web.access import Access
from fledge.web.serving import bind, read_token, serve, url_of

KEPT_IN = "studio-token"  # in fledge's cache: a page that is open stays signed in when the studio is started again


def start_studio(
    runs: Path,
    *,
    host: str = "127.0.0.1",
    hosts: frozenset[str] = frozenset(),
    port: int = 7860,
    token_file: Path | None = None,
    device: str = "auto",
    ready: Callable[[str], None],
) -> None:
    """ready: called with the URL, token included, once requests are answered."""
    token = read_token(token_file, host) if token_file else own_token(cache_dir() / KEPT_IN)
    listener = bind(host, port)
    with listener:
        url = url_of(listener, host)
        cookie = f"fledge-studio-{listener.getsockname()[1]}"  # browsers share cookies between the ports of a host
        access = Access(host, hosts, token=token, cookie=cookie, public=PUBLIC)
        studio = Studio(runs, choose_device(device).value)
        serve(make_app(studio, access), listener, lambda: ready(f"{url}/?token={token}"), studio.stopping.set)


def own_token(file: Path) -> str:
    """The token that this user's studio has; made when it is first needed. It is not kept where that fails."""
    new = secrets.token_urlsafe(24)
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent) as made:  # readable for this user only
                made.write(new)
                made.flush()
                with contextlib.suppress(FileExistsError):  # another studio was first
                    os.link(made.name, file)
    except OSError as error:
        notice(f"warning: {to_user_error(error).message}; pages must be opened anew when the studio is started again")
        return new
    token = read_token(file, "127.0.0.1")
    assert token is not None
    return token
