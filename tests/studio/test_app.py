"""The frame of the studio: its token, its headers, and the documentation of its routes."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from fledge.studio.app import STATIC
from fledge.studio.start import own_token
from fledge.web.serving import MIN_TOKEN_LENGTH


def test_token_in_the_first_url_becomes_a_cookie(studio: Any) -> None:
    with httpx.Client(base_url=studio.url) as browser:
        assert browser.get("/").status_code == 401
        assert browser.get("/api/runs").status_code == 401
        assert browser.get("/", params={"token": "another"}).status_code == 401
        first = browser.get(studio.first_url)
        cookie = first.headers["set-cookie"].lower()
        assert first.status_code == 200
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert browser.get("/").status_code == 200
        assert [run["run"] for run in browser.get("/api/runs").json()] == ["tiny"]


def test_every_answer_has_the_security_headers(studio: Any) -> None:
    for path in ("/", "/static/app.js", "/api/runs", "/api/nothing", "/static/nothing"):
        headers = studio.client().get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in str(headers)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_foreign_host_and_origin_are_refused(studio: Any) -> None:
    for name, value in (("Host", "evil.example"), ("Origin", "https://evil.example")):
        assert studio.client().get("/api/runs", headers={name: value}).status_code == 403


def test_static_files_cannot_be_left(studio: Any) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"):
        assert studio.client().get(path).status_code == 404


def test_own_token_is_made_once_and_needs_no_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cache" / "token"
    assert own_token(file) == own_token(file) == file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert [*file.parent.iterdir()] == [file]
    (tmp_path / "full").touch()
    assert len(own_token(tmp_path / "full" / "token")) >= MIN_TOKEN_LENGTH
    assert "warning: " in capsys.readouterr().err


def test_every_page_opens(page: Any) -> None:
    assert "token" not in page.url
    for name in ("Playground", "Microscope", "Tokenizer", "Data", "Origin", "Runs"):
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_function("name => document.title.startsWith(name)", arg=name)


def test_routes_are_documented(studio: Any, page: Any) -> None:
    described = studio.get("openapi.json").json()["paths"]
    assert all(route.get("description") for methods in described.values() for route in methods.values())
    page.goto(f"{studio.url}/api")
    page.get_by_text("GET /api/runs", exact=True).wait_for()


def test_every_static_file_is_reachable_and_small(studio: Any) -> None:
    files = [file for file in STATIC.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 600_000
    for file in files:
        assert studio.client().get(f"/static/{file.relative_to(STATIC)}").content == file.read_bytes()


def test_pages_on_text_begin_with_the_newest_run_that_learned_from_text(page: Any) -> None:
    chosen = """async runs => (await import("/static/shared.js")).newestOnText(runs).run"""
    runs = [{"run": name, "method": method} for name, method in (("a", "pretrain"), ("b", "pretrain"), ("c", "sft"))]
    assert page.evaluate(chosen, runs) == "b"
    assert page.evaluate(chosen, runs[2:]) == "c"


def test_page_that_was_left_does_not_change_the_address(page: Any) -> None:
    remember = 'async name => (await import("/static/shared.js")).remember(name, { run: "x" })'
    page.evaluate(remember, "data")
    assert "data" not in page.url
    page.evaluate(remember, "runs")
    assert page.url.endswith("#/runs?run=x")
