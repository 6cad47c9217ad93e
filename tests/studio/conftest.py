"""A studio on a free port with one tiny trained run, and pages of a real browser."""

import contextlib
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import fledge
from fledge.studio.app import PUBLIC, make_app
from fledge.studio.state import Studio
from fledge.web.access import Access
from fledge.web.serving import Server, bind, url_of
from tiny import write_text

TOKEN = "a-token-of-the-tests"  # noqa: S105
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 30.0
CERTIFICATES = ssl.create_default_context()  # made once: it takes longer than a request
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"val": 0.1},
    "tokenizer": {"kind": "char"},
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 64},
    "optim": {"lr": 0.01, "min_lr": 0.001, "embed_lr": 0.01, "head_lr": 0.01, "warmup_steps": 2},
    "train": {
        "ngram_steps": 0,
        "steps": 40,
        "batch": 8,
        "device": "cpu",
        "dtype": "float32",
        "compile": False,
        "log_every": 1,
        "eval_every": 10,
        "sample_every": 10,
        "save_every": 10,
        "keep_last": 10,
    },
    "track": {"sample_tokens": 24},
}


@dataclass(frozen=True)
class RunningStudio:
    url: str
    port: int
    runs: Path
    state: Studio

    @property
    def first_url(self) -> str:
        return f"{self.url}/?token={TOKEN}"

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.client().get(f"/api/{path}", params=parameters)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.client().post(f"/api/{path}", json=body)

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=SECONDS, verify=CERTIFICATES)


@contextlib.contextmanager
def running_studio(runs: Path, port: int = 0) -> Iterator[RunningStudio]:
    listener, ready = bind("127.0.0.1", port), threading.Event()
    port = listener.getsockname()[1]
    state = Studio(runs)
    app = make_app(state, Access(token=TOKEN, cookie=f"fledge-studio-{port}", public=PUBLIC))
    server = Server(app, ready.set, state.stopping.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield RunningStudio(url_of(listener, "127.0.0.1"), port, runs, state)
    finally:
        server.stop()
        thread.join(SECONDS)
        listener.close()
        assert not thread.is_alive(), "the studio did not stop"


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the run `tiny`: 40 steps, a checkpoint every 10. Tests must not change it."""
    folder = tmp_path_factory.mktemp("studio")
    text = write_text(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        fledge.train(text, name="tiny", runs=folder / "runs", **SETTINGS)
    return folder / "runs"


@pytest.fixture(scope="session")
def studio(trained_runs: Path) -> Iterator[RunningStudio]:
    with running_studio(trained_runs) as running:
        yield running


@pytest.fixture(scope="session")
def empty_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio whose folder of runs does not exist yet."""
    with running_studio(tmp_path_factory.mktemp("empty") / "runs") as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, studio: RunningStudio) -> Iterator[Any]:
    """A page of the studio, with its cookie. A script error, or a refusal by the security policy, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(SECONDS * 1000)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Security Policy" in line.text else None)
    page.goto(studio.first_url)
    yield page
    context.close()
    assert not errors
