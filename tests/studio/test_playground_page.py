"""The page Playground in a browser: what it shows before anything is written."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import RunningStudio


def test_comparison_begins_with_another_checkpoint(page: Any, studio: "RunningStudio") -> None:
    page.goto(f"{studio.url}/#/playground?run=tiny%4010")
    page.get_by_role("group", name="Run").locator('option[value="20"]').first.wait_for(state="attached")
    page.get_by_role("button", name="Compare with another checkpoint").click()
    page.wait_for_url(re.compile(r"run=tiny%4010&run2=tiny%40(?!10$)\d+$"))


def test_run_without_rewards_has_no_episodes(page: Any, studio: "RunningStudio") -> None:
    page.goto(f"{studio.url}/#/playground?run=tiny&tab=episodes")
    page.get_by_role("heading", name="No rewards in this run").wait_for()
