"""The studio against hostile texts, foreign pages, and names that lead out of the folder of runs."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

import fledge
from fledge.checkpoint.state import initial_state, weights_of
from fledge.core.config import to_toml
from fledge.core.files import to_json
from fledge.runs.run_folder import create_run
from fledge.settings.pipeline import validated
from payloads import FILE_NAMES, LONG, PAYLOADS
from tiny_chat import chat_tokenizer, tiny_model

from .conftest import TOKEN, RunningStudio, running_studio

PAGES = ("runs", "playground", "microscope", "tokenizer", "data", "origin")
SECRET = "what-lies-outside"  # noqa: S105
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"val": 0.1},
    "tokenizer": {"kind": "char"},
    "model": {"n_layer": 1, "n_head": 1, "n_embd": 16, "context": 32},
    "train": {"steps": 2, "batch": 2, "device": "cpu", "dtype": "float32", "compile": False, "sample_every": 1},
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """A studio whose documents, samples, settings, metrics and names of runs are payloads. `bytes` reads long texts."""
    folder = tmp_path_factory.mktemp("hostile")
    runs, documents = folder / "runs", folder / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": payload}) + "\n" for payload in PAYLOADS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLEDGE_CACHE", str(folder / "cache"))
        fledge.train(documents, name="documents", runs=runs, **SETTINGS)
    run = runs / "documents"
    events = [
        {"event": "Sample", "time": 1, "step": number, "prompt": payload, "text": payload, "reward": 1.0}
        for number, payload in enumerate(PAYLOADS)
    ]
    with (run / "events.jsonl").open("a") as file:
        file.write("".join(to_json(event) + "\n" for event in events))
    columns = [each for each in FILE_NAMES if "," not in each and each.isprintable()]
    lines = [
        ",".join(["step", "train/loss", *columns]),
        *(",".join(["1", "2"] + ["3"] * len(columns)) for _ in range(2)),
    ]
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    for name in FILE_NAMES:
        (runs / name).mkdir()
        for file in ("config.toml", "run.json", "tokenizer.json", "metrics.csv"):
            shutil.copy(run / file, runs / name / file)
    tokenizer, model = chat_tokenizer(), tiny_model(context=20_000, n_head=1, n_embd=8)
    settings = validated({"model": asdict(model.config)})
    start = initial_state(weights_of(model), 0)
    about = {"started": "<b>now</b>", "text": PAYLOADS[0]}
    create_run(runs / "bytes", to_toml(settings), about, tokenizer, start)
    with running_studio(runs) as running:
        yield running


class Watch:
    """What a page must not do: open a dialog, call another host, run a payload, break the security policy."""

    def __init__(self, page: Any, studio: RunningStudio) -> None:
        self.page, self.url = page, studio.url
        self.found: list[str] = []
        page.on("dialog", self._dialog)
        page.on(
            "request",
            lambda request: self._note(not request.url.startswith((studio.url, "blob:", "data:")), request.url),
        )
        page.on("pageerror", lambda error: self.found.append(f"script error: {error}"))
        page.on("console", lambda line: self._note("Security Policy" in line.text, line.text))
        page.goto(studio.first_url)
        page.evaluate("addEventListener('securitypolicyviolation', event => { window.violated = event.blockedURI })")

    def _dialog(self, dialog: Any) -> None:
        self.found.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, is_bad: bool, what: str) -> None:
        if is_bad:
            self.found.append(what)

    def open(self, page: str, **parameters: str) -> None:
        query = str(httpx.QueryParams(parameters))
        self.page.goto(f"{self.url}/#/{page}?{query}")
        self.page.locator("#main :is(h1, h2)").first.wait_for()
        self.page.wait_for_load_state("networkidle")
        self.check()

    def check(self) -> None:
        made = self.page.evaluate(
            """() => [
              ...(window.owned || window.violated ? [`a payload ran: ${window.violated}`] : []),
              ...[...document.querySelectorAll(
                'iframe, object, embed, base, meta[http-equiv], marquee, plaintext, img:not([src^="/static/"]), '
                + 'main script, main style, main link, [style*="evil"], a[href^="javascript:" i], [src*="evil"], '
                + '[href^="http"], [onerror], [onload], [onfocus], [ontoggle], [onmouseover], [onanimationstart]')]
                .map(element => element.outerHTML.slice(0, 200)),
            ]"""
        )
        assert not made + self.found


@pytest.fixture
def watch(browser: Any, hostile: RunningStudio) -> Iterator[Watch]:
    context = browser.new_context(viewport={"width": 1100, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    yield Watch(context.new_page(), hostile)
    context.close()


def test_payloads_as_prompts_are_shown_as_text(watch: Watch) -> None:
    """All at once, as bytes: the tokens on the page spell the payloads."""
    shown = [each for each in PAYLOADS if each not in LONG]
    watch.open("playground", run="bytes")
    watch.page.fill("#prompt", "\n".join(shown))
    watch.page.get_by_role("button", name="Only score this text").click()
    watch.page.locator(".pane-foot", has_text="reached the limit").wait_for()
    watch.check()
    text = watch.page.locator(".side .tokens").evaluate("tokens => tokens.textContent")
    assert [each for each in shown if each.isascii() and each.isprintable() and each not in text] == []


def test_payloads_in_a_conversation_are_shown_as_text(watch: Watch) -> None:
    watch.open("playground", run="bytes", tab="chat")
    watch.page.get_by_text("System message").click()
    watch.page.get_by_label("What the model is told first").fill("".join(PAYLOADS[:20]))
    watch.page.fill("#setting-tokens", "3")
    watch.page.fill("#message", "\n".join(each for each in PAYLOADS[::3] if each not in LONG))
    watch.page.get_by_role("button", name="Send", exact=True).click()
    watch.page.locator(".pane-foot", has_text="tokens/s").wait_for()
    watch.check()


def test_pages_of_hostile_runs(watch: Watch) -> None:
    """Documents, samples, settings, names of metrics."""
    for page in PAGES:
        watch.open(page, run="documents")
    watch.open("playground", run="documents", tab="episodes")
    watch.page.locator("input[type=range]").press("PageDown")
    watch.check()


def test_hostile_names_and_addresses(watch: Watch) -> None:
    everything = " ".join(PAYLOADS[:80])[:4000]
    for page, name in zip(PAGES, FILE_NAMES[::11], strict=False):
        watch.open(page, run=name, text=everything, prompt=everything, find=everything)
    watch.open("playground", run="<img src=x onerror=alert(1)>", run2="javascript:alert(1)", tab="<b>")
    for payload in ("javascript:alert(1)", "<script>alert(1)</script>", "../../app.py"):
        watch.open(payload, tab=payload)


# Requests, without a browser.

Route = tuple[str, str, dict[str, Any]]


@pytest.fixture(scope="module")
def routes(hostile: RunningStudio) -> list[Route]:
    paths = hostile.get("openapi.json").json()["paths"]
    found = [(method, path, about) for path, methods in paths.items() for method, about in methods.items()]
    assert len(found) > 5
    return found


def test_foreign_host_origin_and_token_are_refused_everywhere(hostile: RunningStudio, routes: list[Route]) -> None:
    with hostile.client() as client:
        for method, path, _ in routes:
            for name, value, status in (
                ("Host", "evil.example", 403),
                ("Host", f"evil.example:{hostile.port}", 403),
                ("Origin", "https://evil.example", 403),
                ("Origin", "null", 403),
                ("Origin", f"http://127.0.0.1:{hostile.port + 1}", 403),
                ("Authorization", "Bearer another", 401),
                ("Authorization", "", 401),
            ):
                answer = client.request(method, path, headers={name: value})
                assert answer.status_code == status, (method, path, name, value)


def test_forms_of_other_sites_are_refused(hostile: RunningStudio, routes: list[Route], browser: Any) -> None:
    """A form has no JSON type; one that a browser sends from another page names its origin."""
    cookie = {"Cookie": f"fledge-studio-{hostile.port}={TOKEN}"}
    forms = {"application/x-www-form-urlencoded": "run=documents", "text/plain": '{"run": "documents"}'}
    changing = [(method, path) for method, path, about in routes if "requestBody" in about]
    with httpx.Client(base_url=hostile.url, headers=cookie) as client:
        for method, path in changing:
            for content_type, content in forms.items():
                answer = client.request(method, path, content=content, headers={"Content-Type": content_type})
                assert answer.status_code in (400, 415, 422), (path, content_type)
    context = browser.new_context()
    page = context.new_page()
    page.goto(hostile.first_url)
    page.goto("about:blank")
    action = f"{hostile.url}/api/playground/generate"
    page.set_content(f'<form method=post enctype=text/plain action="{action}"><button>Go</button></form>')
    with page.expect_response("**/api/playground/generate") as response:
        page.get_by_text("Go").click()
    assert response.value.status == 403
    context.close()


def test_nothing_is_changed_by_a_get(hostile: RunningStudio, routes: list[Route]) -> None:
    def files() -> dict[str, tuple[int, int]]:
        stats = {str(path): path.stat() for path in sorted(hostile.runs.rglob("*")) if path.is_file()}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}

    before = files()
    with hostile.client() as client:
        for method, path, about in routes:
            assert method in ("get", "post")
            if method == "get":
                assert "requestBody" not in about
                call_every_way(client, path, about, "documents")
    assert files() == before


def call_every_way(client: httpx.Client, path: str, about: dict[str, Any], run: str) -> Iterator[bytes] | None:
    """A GET with a value for each parameter that it needs; of a stream, the beginning."""
    values = {"string": run, "integer": "1", "number": "1", "boolean": "true", "array": run}
    parameters = {
        each["name"]: run if each["name"] == "run" else values.get(each["schema"].get("type", "string"), "1")
        for each in about.get("parameters", [])
        if each["required"] or each["name"] == "run"
    }
    with client.stream("GET", path, params=parameters) as answer:
        assert answer.status_code < 500, (path, parameters)
        if "event-stream" not in answer.headers["content-type"]:
            return iter([answer.read()])
    return None


def test_names_of_runs_stay_inside_the_folder(hostile: RunningStudio, routes: list[Route], tmp_path: Path) -> None:
    outside = hostile.runs.parent / "outside"
    shutil.copytree(hostile.runs / "documents", outside)
    sample = {"event": "Sample", "time": 1, "step": 1, "prompt": SECRET, "text": SECRET}
    (outside / "events.jsonl").write_text(to_json(sample) + "\n")
    (outside / "metrics.csv").write_text(f"step,{SECRET}\n1,1\n")
    names = [
        "../outside",
        str(outside),
        f"documents/../../{outside.name}",
        f"./../{outside.name}@latest",
        f"..\\{outside.name}",
        "~/x",
        "\0",
        "documents\0",
        "x" * 5000,
        "/".join(["x"] * 3000),
        "\ud800",
        "/etc",
        "..",
    ]
    assert sum(status == 200 for _, status, _ in answers_about(hostile, routes, "documents", ("get",))) > 5
    for name in names:
        for path, status, text in answers_about(hostile, routes, name):
            assert 400 <= status < 500, (path, name[:80], text[:200])
            assert SECRET not in text


def answers_about(
    studio: RunningStudio, routes: list[Route], name: str, methods: Sequence[str] = ("get", "post")
) -> Iterator[tuple[str, int, str]]:
    """Path, status and text of every route that takes the name of a run."""
    with studio.client() as client:
        for method, path, about in routes:
            needed = {each["name"]: "1" for each in about.get("parameters", []) if each["required"]}
            if method not in methods:
                continue
            if method == "get" and any(each["name"] == "run" for each in about.get("parameters", [])):
                parameters = {**needed, "run": name.encode(errors="replace").decode()}
                with client.stream("GET", path, params=parameters) as answer:
                    if answer.status_code == 200 and "event-stream" in answer.headers["content-type"]:
                        events = (line for line in answer.iter_lines() if line.startswith("event:"))
                        kind = next(each for each in events if "hello" not in each)
                        yield path, 404 if "gone" in kind else 200, kind
                    else:
                        yield path, answer.status_code, answer.read().decode()
            elif method == "post" and "requestBody" in about:
                content = json.dumps({"run": name, "text": "a", "step": 2, "steps": 5, "layer": 0, "head": 0})
                answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
                yield path, answer.status_code, answer.text


def test_static_files_do_not_lead_out(hostile: RunningStudio) -> None:
    with hostile.client() as client:
        for path in ("..%2f..%2fapp.py", "%2e%2e/%2e%2e/app.py", "//etc/passwd", "..\\app.py", "%00", "x" * 5000):
            answer = client.get(f"/static/{path}")
            assert 400 <= answer.status_code < 500, path
            assert "FastAPI" not in answer.text
