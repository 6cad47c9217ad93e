"""Every page of the studio: axe-core's findings, the keyboard alone, and a telephone's width."""

from pathlib import Path
from typing import Any

import pytest

from .conftest import RunningStudio

AXE = Path(__file__).with_name("axe") / "axe.min.js"  # 4.14, with its licence beside it
PAGES = ("runs", "playground", "microscope", "tokenizer", "data", "origin")
ADDRESSES = (
    *PAGES,
    "runs?run=tiny",
    "runs?new=1",
    "playground?tab=chat",
    "playground?tab=episodes",
    "data?view=search",
    "data?view=batch&step=3",
)
SETTLED = """() => new Promise((resolve) => {
  const quiet = () => { watcher.disconnect(); clearTimeout(longest); resolve(); };
  let timer = setTimeout(quiet, 150);
  const longest = setTimeout(quiet, 3000);
  const watcher = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(quiet, 150); });
  watcher.observe(document.getElementById("main"), { subtree: true, childList: true });
})"""
FINDINGS = """async () => {
  const found = await axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] });
  const serious = found.violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  return serious.flatMap(({ id, nodes }) => nodes.map(({ html, any }) => `${id}: ${html} ${any[0]?.message ?? ""}`));
}"""
FOCUSED = """() => {
  const it = document.activeElement;
  if (!it || it === document.body) return null;
  const seen = (window.focused ??= new Map());
  if (!seen.has(it)) seen.set(it, seen.size);
  const box = it.getBoundingClientRect(), style = getComputedStyle(it);
  const name = it.getAttribute("aria-label") || it.labels?.[0]?.textContent || it.textContent || it.title || "";
  return { number: seen.get(it), html: it.outerHTML.slice(0, 120), name: name.trim(),
    seen: box.width > 0 && box.height > 0 && style.visibility === "visible",
    outlined: style.outlineStyle !== "none" || style.boxShadow !== "none" || it.matches("input[type=radio]") };
}"""


def open_page(page: Any, studio: RunningStudio, name: str) -> None:
    page.goto(f"{studio.url}/#/{name}")
    page.locator("#main h1, #main h2").first.wait_for()
    page.evaluate(SETTLED)


def check(page: Any) -> list[str]:
    """What axe-core finds serious or critical."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text("utf-8"))  # not as a <script>, which the security policy would refuse
    findings: list[str] = page.evaluate(FINDINGS)
    return findings


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_finding_on_any_page(page: Any, studio: RunningStudio, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    for name in ADDRESSES:
        open_page(page, studio, name)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert check(page) == [], name
    page.goto(f"{studio.url}/api")
    page.locator("h2").first.wait_for()
    assert check(page) == []


def test_a_studio_without_runs_says_what_to_do(
    page: Any, empty_studio: RunningStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)  # with GPT-2's files, the page Tokenizer has one to show
    page.goto(empty_studio.first_url)
    for name in PAGES:
        open_page(page, empty_studio, name)
        assert "fledge demo" in page.locator("#main").inner_text(), name
        assert check(page) == [], name


def test_the_page_that_asks_for_the_token(browser: Any, studio: RunningStudio) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(studio.url)
    assert check(page) == []
    page.keyboard.press("Tab")
    page.keyboard.type(studio.first_url.split("=")[1])
    page.keyboard.press("Enter")
    page.locator("#navigation nav").wait_for()
    context.close()


def test_a_telephone_needs_no_sideways_scrolling(page: Any, studio: RunningStudio) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ADDRESSES:
        open_page(page, studio, name)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 390, name
    page.goto(f"{studio.url}/api")
    page.locator("h2").first.wait_for()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_every_page_is_reached_and_left_by_the_keyboard(page: Any, studio: RunningStudio) -> None:
    """Tab visits every control once, in the order of the document, each with a name and a visible focus; Enter on a
    page's link opens it, and the next Tab is in its content."""
    for name in (*PAGES, "runs?run=tiny"):
        page.goto("about:blank")
        open_page(page, studio, name)
        visited = walk(page)
        assert "Skip to content" in visited[0], name
        assert len(visited) > len(PAGES), name
    page.get_by_role("link", name="Tokenizer").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.title.startsWith('Tokenizer')")
    page.evaluate(SETTLED)
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('main').contains(document.activeElement)")


def walk(page: Any, most: int = 150) -> list[str]:
    visited: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None or focused["number"] < len(visited):
            return visited
        assert focused["seen"], focused["html"]
        assert focused["name"], focused["html"]
        assert focused["outlined"], focused["html"]
        visited.append(focused["html"])
    raise AssertionError(f"more than {most} controls, or a trap at {visited[-1]}")
