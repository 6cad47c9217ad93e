"""The page Runs in a browser: curves, zoom and keys; a journey of form, live curve, restart, stop and resume."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fledge.tracking.events import Metrics
from fledge.tracking.sinks.csv import read_metrics
from fledge.tracking.sinks.jsonl import JSONLSink, read_events
from tiny import TINY_TOML

from .conftest import SECONDS, running_studio

POINTS = "Number(document.querySelector('.chart.tall')?.dataset.points ?? 0)"  # that are drawn of the losses
ENDLESS_TOML = TINY_TOML.replace("steps = 12", "steps = 1000000").replace("eval_every = 4", "eval_every = 1000000")
ENDLESS_TOML = ENDLESS_TOML.replace("log_every = 1", "log_every = 20").replace("sample_every = 6", "sample_every = 0")
ENDLESS_TOML = ENDLESS_TOML.replace("save_every = 3", "save_every = 1000000")

HIDE = """hidden => { Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange")); }"""


def open_page(page: Any, url: str, text: str) -> None:
    page.goto(url)
    page.get_by_text(text).first.wait_for()


def test_list_search_and_compare(studio: Any, page: Any) -> None:
    page.get_by_role("link", name="tiny", exact=True).wait_for()
    page.get_by_label("Search").fill("nothing like that")
    page.get_by_role("heading", name="No run is like that").wait_for()
    page.get_by_label("Search").fill("TIN")
    page.get_by_label("Compare tiny").check()
    page.get_by_role("link", name="Open", exact=True).click()
    page.get_by_role("heading", name="tiny", exact=True).wait_for()


def test_one_run_by_keys_alone(studio: Any, page: Any) -> None:
    """Values at the cursor, zoom in and out, the samples through time, the settings."""
    open_page(page, f"{studio.url}/#/runs?run=tiny", "Checkpoints")
    page.wait_for_function(f"() => {POINTS} === 45")
    plot = page.get_by_role("group", name="Loss.")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    tip = plot.get_by_role("status")
    tip.wait_for()
    assert "train" in tip.inner_text()
    page.keyboard.press("+")
    page.get_by_role("button", name="Show all steps").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Show all steps").wait_for(state="detached")
    page.get_by_label("x axis").select_option("training time")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    tip.get_by_text("minutes of training").wait_for()
    samples = page.get_by_label("Samples through time")
    last = page.locator(".sample").inner_text()
    samples.focus()
    page.keyboard.press("Home")
    page.wait_for_function("last => document.querySelector('.sample').innerText !== last", arg=last)
    page.get_by_role("textbox", name="Search").or_(page.get_by_role("searchbox")).last.fill("optim.lr")
    page.get_by_role("cell", name="optim.lr", exact=True).wait_for()
    assert page.get_by_role("link", name="Playground").nth(1).get_attribute("href") == "#/playground?run=tiny"


def test_damaged_deleted_and_renamed_runs_are_said_in_words(trained_runs: Path, tmp_path: Path, browser: Any) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    shutil.copytree(runs / "tiny", runs / "broken")
    (runs / "broken" / "config.toml").write_text("[")
    with running_studio(runs) as studio, browser_page(browser, studio) as page:
        open_page(page, f"{studio.url}/#/runs?run=broken", "This run cannot be read")
        open_page(page, f"{studio.url}/#/runs?run=tiny", "Checkpoints")
        page.wait_for_function(f"() => {POINTS} > 0")
        (runs / "tiny").rename(runs / "other")
        page.get_by_role("link", name="open other").click()
        page.get_by_role("heading", name="other", exact=True).wait_for()
        page.get_by_text("Checkpoints").first.wait_for()
        page.wait_for_function(f"() => {POINTS} > 0")
        shutil.rmtree(runs / "other")
        page.get_by_text("was deleted").first.wait_for()  # a request under way may say it, too
        page.goto(f"{studio.url}/#/runs?run=other")
        page.reload()
        page.get_by_role("heading", name="There is no such run").wait_for()


def test_a_deleted_run_leaves_a_long_list(trained_runs: Path, tmp_path: Path, browser: Any) -> None:
    for number in range(45):
        folder = Path(shutil.copytree(trained_runs / "tiny", tmp_path / f"run-{number:02}"))
        os.utime(folder / "metrics.csv", (4e9 - number,) * 2)  # the first is the latest
    with running_studio(tmp_path) as studio, browser_page(browser, studio) as page:
        rows = page.locator(".runs-table tbody tr")
        page.get_by_role("link", name="run-44", exact=True).wait_for()
        shutil.rmtree(tmp_path / "run-42")
        page.get_by_role("link", name="run-42", exact=True).wait_for(state="detached")
        page.get_by_role("link", name="run-44", exact=True).wait_for()
        assert rows.count() == 44


def test_hidden_tab_closes_its_stream_and_loses_nothing(trained_runs: Path, tmp_path: Path, browser: Any) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    sink = JSONLSink(runs / "tiny")
    with running_studio(runs) as studio, browser_page(browser, studio) as page:
        open_page(page, f"{studio.url}/#/runs?run=tiny", "Checkpoints")
        page.wait_for_function(f"() => {POINTS} === 45")  # its place in the events is known
        sink.record(Metrics(41, {"train/loss": 1.0}))
        page.wait_for_function(f"() => {POINTS} === 46")
        page.evaluate(HIDE, arg=True)
        page.wait_for_timeout(2500)
        sink.record(Metrics(42, {"train/loss": 1.0}))
        page.wait_for_timeout(1500)
        assert page.evaluate(POINTS) == 46
        page.evaluate(HIDE, arg=False)
        page.wait_for_function(f"() => {POINTS} === 47")


@contextlib.contextmanager
def browser_page(browser: Any, studio: Any) -> Iterator[Any]:
    context = browser.new_context()
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    page.goto(studio.first_url)
    yield page
    context.close()


def grows(page: Any) -> None:
    before = page.evaluate(POINTS)
    page.wait_for_function(f"before => {POINTS} > before", arg=before)


def test_form_live_curve_restart_stop_and_resume(
    trained_runs: Path, tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is started from the form and drawn while it grows. The studio ends and begins again: nothing is lost."""
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    runs = tmp_path / "runs"
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    with first, second:
        studio = first.enter_context(running_studio(runs))
        page = second.enter_context(browser_page(browser, studio))
        page.get_by_role("heading", name="There are no runs yet").wait_for()
        page.get_by_role("link", name="Train a model here").click()
        (tmp_path / "endless.toml").write_text(ENDLESS_TOML)
        fill_form(page, f"{tmp_path / 'endless.toml'} {trained_runs.parent / 'text'}")
        page.get_by_role("button", name="Start training").click()
        page.get_by_role("heading", name="live").wait_for()
        page.wait_for_function(f"() => {POINTS} > 3")
        page.evaluate("window.stayed = true")
        grows(page)
        first.close()
        page.get_by_text("The studio does not answer").wait_for()
        second.enter_context(running_studio(runs, studio.port))
        grows(page)
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("interrupted", exact=True).wait_for()
        metrics = read_metrics(runs / "live")
        logged = len(metrics.measured("train/loss")) + len(metrics.measured("val/loss"))
        page.wait_for_function(f"expected => {POINTS} === expected", arg=logged)
        page.get_by_text("it saves a checkpoint first").wait_for(state="hidden")
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("Resumed", exact=True).wait_for()
        page.get_by_text("goes on in a moment").wait_for(state="hidden")
        grows(page)
        assert page.evaluate("window.stayed")
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("interrupted", exact=True).wait_for()
    assert sum(event["event"] == "Started" for event in read_events(runs / "live")) == 2


def fill_form(page: Any, words: str) -> None:
    """A wrong value is refused while it is typed; then the command is shown."""
    page.locator("[name=text]").fill(words)
    page.get_by_label("Name of the run").fill("live")
    page.get_by_role("button", name="Add a setting").click()
    page.get_by_label("Setting", exact=True).fill("train.threads")
    page.get_by_label("Value").fill("many")
    page.get_by_role("alert").get_by_text("train.threads cannot be 'many'").wait_for()
    page.get_by_label("Value").fill("1")
    page.get_by_text("--run=live --train.threads=1").wait_for()


FORM = b"""<form method=post enctype=text/plain action="%s/api/runs/train"><input name='{"words":["demo"],"name":"'
value='"}'><button>Win</button></form>"""


def test_form_of_another_site_is_refused(studio: Any, page: Any) -> None:
    """Its port makes it another origin, but not another site: the browser sends the cookie with it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FORM % studio.url.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{site.server_port}/")
        with page.expect_response("**/api/runs/train") as posted:
            page.get_by_role("button").click()
        assert posted.value.status == 403
        site.shutdown()
    assert studio.get("runs/jobs").json() == []
