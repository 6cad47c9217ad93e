"""The routes of the microscope: the numbers of the library, and what is said where there are none."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fledge
from fledge.insight.attention import attention_weights, head_scores
from fledge.insight.logit_lens import logit_lens
from fledge.insight.token_loss import token_loss
from fledge.studio.recent import Recent

from .conftest import RunningStudio, running_studio

TEXT = "the quick brown fox jumps over the quick brown fox"
AT = {"run": "tiny", "step": 20, "text": TEXT}


def ids_of(run: fledge.LoadedRun, text: str = TEXT) -> torch.Tensor:
    return torch.from_numpy(run.tokenizer.encode(text).astype("int64"))


@pytest.fixture(scope="session")
def tiny(trained_runs: Path) -> fledge.LoadedRun:
    return fledge.load("tiny@20", runs=trained_runs)


def test_run_is_described_with_its_checkpoints_and_a_text(studio: RunningStudio) -> None:
    info = studio.get("microscope", run="tiny@30").json()
    assert (info["run"], info["step"], info["layers"], info["heads"], info["context"]) == ("tiny", 30, 2, 2, 64)
    losses = {each["step"]: each["val_loss"] for each in info["checkpoints"]}
    assert list(losses) == sorted(losses)  # 10, 20, 30, 40, and those of the history
    assert all(losses[step] > 0 for step in (10, 20, 30, 40))
    assert info["text"]
    assert studio.get("microscope").json()["step"] in (10, 20, 30, 40)  # the best of the latest run


def test_heads_are_those_of_the_readable_attention(studio: RunningStudio, tiny: fledge.LoadedRun) -> None:
    weights = attention_weights(tiny.model, ids_of(tiny))
    for layer, head in np.ndindex(2, 2):
        answer = studio.post("microscope/head", {**AT, "layer": layer, "head": head})
        assert answer.headers["x-shape"] == f"{len(TEXT)},{len(TEXT)}"
        found = np.frombuffer(answer.content, "<f4").reshape(len(TEXT), -1)
        np.testing.assert_allclose(found, weights[layer, head], atol=1e-6)
    answer = studio.post("microscope/grid", AT)
    grid = np.frombuffer(answer.content, np.uint8).reshape([int(n) for n in answer.headers["x-shape"].split(",")])
    assert np.abs(grid / 255 - weights.numpy()).max() <= 0.5 / 255 + 1e-6


def test_losses_scores_and_lens_are_those_of_the_library(studio: RunningStudio, tiny: fledge.LoadedRun) -> None:
    answer, ids = studio.post("microscope/tokens", AT).json(), ids_of(tiny)
    assert answer["tokens"] == list(TEXT)
    assert answer["left_out"] == 0
    assert answer["losses"][0] is None
    assert answer["losses"][1:] == pytest.approx(token_loss(tiny.model, ids).tolist(), abs=1e-4)
    scores, lens = (
        studio.get("microscope/scores", run="tiny", step=20).json(),
        studio.post("microscope/lens", AT).json(),
    )
    assert np.abs(np.array(scores["induction"]) - head_scores(tiny.model).induction.numpy()).max() < 1e-4
    expected = logit_lens(tiny.model, ids)
    assert lens["top_ids"] == expected.top_ids.tolist()
    assert np.abs(np.array(lens["kl"]) - expected.kl.numpy()).max() < 1e-4
    assert lens["labels"][str(lens["top_ids"][1][0][0])] == tiny.tokenizer.decode([lens["top_ids"][1][0][0]])


def test_long_text_is_cut_at_the_context(studio: RunningStudio) -> None:
    answer = studio.post("microscope/tokens", {**AT, "text": "the " * 40}).json()
    assert (len(answer["tokens"]), answer["left_out"]) == (64, 160 - 64)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": ""}, "the text is empty"),
        ({"text": "<script>"}, "is not in the vocabulary"),
        ({"step": 999}, "the checkpoint of step 999 is no longer there"),
        ({"run": "none"}, "no run 'none"),
        ({"run": "../tiny"}, "no run '../tiny"),
        ({"layer": 2}, "no head 0 in layer 2"),
        ({"head": 2}, "no head 2 in layer 0"),
        ({"layer": -1}, "layer"),
        ({"step": "x"}, "step"),
    ],
    ids=str,
)
def test_wrong_questions_are_answered_in_words(studio: RunningStudio, changed: dict[str, Any], words: str) -> None:
    answer = studio.post("microscope/head", {**AT, "layer": 0, "head": 0, **changed})
    assert answer.status_code in (400, 422)
    assert words in answer.json()["error"]["message"]


def test_deleted_and_damaged_checkpoints_are_named(trained_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_runs / "tiny", tmp_path / "tiny")
    with running_studio(tmp_path) as studio:
        assert studio.post("microscope/grid", AT).status_code == 200
        shutil.rmtree(tmp_path / "tiny" / "checkpoints" / "step-00000020")
        answer = studio.post("microscope/grid", AT)
        assert answer.json()["error"]["message"] == "the checkpoint of step 20 is no longer there; choose another"
        assert studio.post("microscope/grid", {**AT, "step": 30}).status_code == 200
        (tmp_path / "tiny" / "checkpoints" / "step-00000010" / "model.safetensors").write_bytes(b"")
        assert "damaged" in studio.post("microscope/grid", {**AT, "step": 10}).json()["error"]["message"]
        (tmp_path / "tiny" / "events.jsonl").write_text(json.dumps({"event": "Sample"}) + "\n")
        assert studio.get("microscope", run="tiny").json()["text"] == ""


def test_second_look_computes_nothing(studio: RunningStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    first = studio.post("microscope/grid", AT).content
    monkeypatch.setattr("fledge.studio.state.Studio.load", None)
    assert studio.post("microscope/grid", AT).content == first
    assert studio.post("microscope/head", {**AT, "layer": 1, "head": 1}).status_code == 200


def test_recent_results_fit_in_their_bytes() -> None:
    recent: Recent[str] = Recent(10)
    for name, size in (("a", 4), ("b", 4), ("a", 5)):
        recent.put(name, name.upper(), size)
    assert (recent.get("a"), recent.get("b")) == ("A", "B")
    recent.put("c", "C", 5)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (None, "B", "C")
    recent.put("d", "D", 100)
    assert (recent.get("b"), recent.get("d")) == (None, "D")


def show(page: Any, url: str, text: str = TEXT) -> None:
    page.goto(f"{url}/#/microscope?run=tiny%4020&layer=1&head=0&text={text.replace(' ', '+')}")
    page.locator(".prediction").wait_for()


def test_page_shows_the_weights_of_the_readable_attention(
    page: Any, studio: RunningStudio, tiny: fledge.LoadedRun
) -> None:
    """The weight under the pointer is the one that the readable attention computes."""
    show(page, studio.url)
    canvas, T, margin = page.locator("canvas.head"), len(TEXT), 4
    cell = (canvas.bounding_box()["width"] - 2 * margin) / T
    weights = attention_weights(tiny.model, ids_of(tiny))[1, 0]
    for query, key in ((T - 1, 0), (20, 20), (31, 7)):
        canvas.hover(position={"x": margin + (key + 0.5) * cell, "y": margin + (query + 0.5) * cell})
        line = page.get_by_text(f"position {query} → {key}").locator("..")
        assert float(line.locator("b").nth(2).inner_text()) == pytest.approx(float(weights[query, key]), rel=6e-3)


def test_slider_keys_and_arcs_change_what_is_shown(page: Any, studio: RunningStudio) -> None:
    show(page, studio.url)
    steps = [each["step"] for each in studio.get("microscope", run="tiny").json()["checkpoints"]]
    page.wait_for_load_state("networkidle")  # the neighbours of this checkpoint are fetched ahead
    page.route("**/api/microscope/*", lambda route: route.abort())
    page.get_by_role("slider", name="Checkpoint").focus()
    page.keyboard.press("ArrowRight")
    after = steps[steps.index(20) + 1]
    page.locator(f".page[data-step='{after}']").wait_for()
    page.unroute("**/api/microscope/*")
    page.locator("canvas.heads").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Layer 1 · head 1").wait_for()
    page.keyboard.press("ArrowUp")
    page.get_by_role("heading", name="Layer 0 · head 1").wait_for()
    page.keyboard.press("[")
    page.locator(".page[data-step='20']").wait_for()
    before = page.locator("canvas.head").evaluate("canvas => canvas.toDataURL()")
    page.get_by_text("Arcs", exact=True).click()
    assert page.locator("canvas.head").evaluate("canvas => canvas.toDataURL()") != before
    page.locator(".lens-scroller").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("After h, layer 1 would say").wait_for()
    assert "tiny%4020" in page.url


def test_deleted_checkpoint_is_said_and_the_rest_stays(page: Any, studio: RunningStudio) -> None:
    show(page, studio.url)
    gone = "the checkpoint of step 30 is no longer there; choose another"
    page.route("**/api/microscope/tokens", lambda route: route.fulfill(status=400, json={"error": {"message": gone}}))
    page.locator(".checkpoints input").evaluate("e => { e.value = e.max; e.dispatchEvent(new Event('input')); }")
    page.get_by_text("The checkpoint of step 30 is no longer there").wait_for()
    assert "What you see is step 20" in page.get_by_role("alert").inner_text()
    assert page.locator("canvas.heads").is_visible()


def test_text_of_markup_is_shown_as_text(page: Any, studio: RunningStudio) -> None:
    show(page, studio.url)
    page.locator("textarea").fill("<img src=x onerror=alert(1)>")
    page.get_by_text("is not in the vocabulary").wait_for()
    assert page.locator("#main img").count() == 0
