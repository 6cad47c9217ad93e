"""The playground: its routes, and the page in a browser."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fledge.alignment.config import METHOD_SETTINGS
from fledge.checkpoint.state import initial_state, weights_of
from fledge.core.config import build, to_toml
from fledge.core.files import to_json
from fledge.runs.run_folder import create_run
from fledge.studio.generation import TokenJSON
from fledge.tokenizers.byte_level import ALPHABET, bpe_json, bytes_to_token
from fledge.tokenizers.hf import HFTokenizer
from fledge.web.worker import Worker
from tiny_chat import chat_tokenizer, tiny_model

from .conftest import running_studio
from .test_accessibility import check

Event = tuple[str, dict[str, Any]]


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def generate(studio: Any, **body: Any) -> list[Event]:
    answer = studio.post("playground/generate", {"run": "tiny", "prompt": "the ", "tokens": 8, **body})
    assert answer.status_code == 200, answer.text
    return list(read_events(iter(answer.text.splitlines())))


def refusal(studio: Any, **body: Any) -> str:
    answer = studio.post("playground/generate", {"run": "tiny", "prompt": "the ", "tokens": 8, **body})
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


def tokens_of(events: list[Event]) -> list[dict[str, Any]]:
    return [token for name, data in events if name == "tokens" for token in data["tokens"]]


def text_of(events: list[Event]) -> str:
    return "".join(token["text"] for token in tokens_of(events))


@pytest.fixture(scope="module")
def chat_run(trained_runs: Path) -> Iterator[str]:
    """A model, not trained, whose tokenizer has the tokens of conversations; as a run of GRPO with rewarded answers."""
    tokenizer, model = chat_tokenizer(), tiny_model(context=96)
    made = {"model": asdict(model.config), "align": {"method": "grpo"}}
    start = initial_state(weights_of(model), 0)
    settings = to_toml(build(METHOD_SETTINGS["grpo"], made))
    run = create_run(trained_runs / "duck", settings, {"started": "2026-01-01", "method": "grpo"}, tokenizer, start)
    sample = {"event": "Sample", "prompt": "user: ?\nassistant: "}
    events = [{**sample, "step": step, "reward": step / 10, "text": f"quack {step}"} for step in (1, 2)]
    (run.folder / "events.jsonl").write_text("".join(to_json(event) + "\n" for event in events))
    (run.folder / "metrics.csv").write_text("step,rollout/reward,train/loss\n1,0.25,3\n2,0.5,2\n")
    yield "duck"
    shutil.rmtree(run.folder)


def test_stream_has_tokens_probabilities_and_rivals(studio: Any) -> None:
    events = generate(studio, temperature=0, alternatives=5)
    names = [name for name, _ in events]
    assert names[:2] == ["begin", "prompt"]
    assert names[-1] == "end"
    begin, prompt, end = events[0][1], events[1][1]["tokens"], events[-1][1]
    assert "".join(token["text"] for token in begin["prompt"]) == "the "
    assert len(prompt) == 3, "the first token has no probability"
    assert (end["reason"], end["tokens"]) == ("length", 8)
    for token in tokens_of(events):
        best, logprob = token["top"][0]
        assert best["id"] == token["id"], "greedy takes the most likely"
        assert logprob == token["logprob"] <= 0
        assert len(token["top"]) == 5


def test_same_seed_same_text(studio: Any) -> None:
    first, again, other = (text_of(generate(studio, seed=seed, tokens=40)) for seed in (7, 7, 8))
    assert first == again != other


def test_branch_continues_after_the_rival(studio: Any) -> None:
    whole = generate(studio, temperature=0, tokens=12)
    ids = [token["id"] for token in (*whole[0][1]["prompt"], *tokens_of(whole))]
    rest = generate(studio, prompt=None, ids=ids[:9], temperature=0, tokens=7, score_prompt=False)
    assert [token["id"] for token in tokens_of(rest)] == ids[9:], "the same tokens before give the same ones after"
    rival = tokens_of(whole)[2]["top"][1][0]["id"]
    branch = generate(studio, ids=[*ids[4:6], rival], temperature=0, tokens=3)
    assert [token["id"] for token in branch[0][1]["prompt"]] == [*ids[:6], rival]


def test_text_is_finished_when_its_checkpoint_is_written_again(studio: Any, trained_runs: Path) -> None:
    body = {"run": "tiny@20", "prompt": "the ", "tokens": 3000, "temperature": 0}
    with studio.client() as client, client.stream("POST", "/api/playground/generate", json=body) as answer:
        events = read_events(answer.iter_lines())
        assert next(events)[0] == "begin"
        (trained_runs / "tiny" / "checkpoints" / "step-00000020" / "manifest.json").touch()
        assert generate(studio, run="tiny@20")[-1][0] == "end"
        found = [*events]
    assert found[-1][0] == "end"
    assert len(tokens_of(found)) == 3000


def test_text_ends_with_a_word_when_the_studio_is_stopped(trained_runs: Path) -> None:
    body = {"run": "tiny", "prompt": "the ", "tokens": 4000, "temperature": 0}
    with (
        running_studio(trained_runs) as studio,
        studio.client() as client,
        client.stream("POST", "/api/playground/generate", json=body) as answer,
    ):
        events = read_events(answer.iter_lines())
        assert next(events)[0] == "begin"
        studio.state.stopping.set()
        assert [*events][-1] == ("error", {"message": "the studio was stopped"})


def test_zero_tokens_scores_the_text(studio: Any) -> None:
    events = generate(studio, tokens=0)
    assert [name for name, _ in events] == ["begin", "prompt", "end"]


def test_long_and_empty_prompts(studio: Any) -> None:
    begin = generate(studio, prompt="the fox " * 20)[0][1]
    assert (len(begin["prompt"]), begin["dropped"]) == (64, 96), "the end of the text is read"
    empty = generate(studio, prompt="")[0][1]
    assert (len(empty["prompt"]), empty["added"]) == (1, True)
    assert len(tokens_of(generate(studio, tokens=100))) == 100, "longer than the context"


def test_text_slides_past_the_context(studio: Any) -> None:
    reread, slid = (generate(studio, tokens=90, seed=1, past_context=way) for way in ("reread", "slide"))
    context = reread[0][1]["context"]
    room = context + 1 - len(reread[0][1]["prompt"])
    texts = [[token["id"] for token in tokens_of(events)] for events in (reread, slid)]
    assert texts[0][:room] == texts[1][:room]
    assert texts[0] != texts[1]


def test_refusals_are_in_words(studio: Any) -> None:
    assert "U+6C34" in refusal(studio, prompt="the 水"), "a character that the vocabulary lacks"
    assert "temperature cannot be -1" in refusal(studio, temperature=-1)
    assert "top-k cannot be 0" in refusal(studio, top_k=0)
    assert "the prompt is empty" in refusal(studio, prompt=None)
    assert "outside the vocabulary" in refusal(studio, ids=[99999])
    assert "no chat template" in refusal(studio, messages=[{"role": "user", "content": "the"}])
    assert "there is no run 'nothing'" in refusal(studio, run="nothing")
    assert "no checkpoint '77'" in refusal(studio, run="tiny@77")
    assert "tokens" in refusal(studio, tokens=10**9)


def test_stop_string_ends_the_text(studio: Any) -> None:
    events = generate(studio, stop=["e"], tokens=200)
    assert events[-1][1]["reason"] == "stop"


def test_leaving_ends_the_computation(studio: Any) -> None:
    before = generated_tokens(studio)
    body = {"run": "tiny", "prompt": "the ", "tokens": 4000, "temperature": 0}
    with studio.client().stream("POST", "/api/playground/generate", json=body) as answer:
        events = read_events(answer.iter_lines())
        while next(events)[0] != "tokens":
            pass
    wait_until_idle(studio)
    assert 0 < generated_since(studio, before) < 4000


def workers(studio: Any) -> list[Worker]:
    return [model.worker for model in studio.state.engines._models.values()]


def generated_tokens(studio: Any) -> dict[Worker, int]:
    return {worker: worker.engine.counters.generated_tokens for worker in workers(studio)}


def generated_since(studio: Any, before: dict[Worker, int]) -> int:
    """By all engines; those that another one has displaced do not count."""
    return sum(count - before.get(worker, 0) for worker, count in generated_tokens(studio).items())


def wait_until_idle(studio: Any) -> None:
    """Until no engine generates: no slot is taken, and the counter of tokens stands still."""
    end = time.monotonic() + 20
    while any(worker.occupied or worker.engine.active for worker in workers(studio)):
        assert time.monotonic() < end, "a text that nobody reads is still generated"
        time.sleep(0.02)
    count = generated_tokens(studio)
    time.sleep(0.1)
    assert count == generated_tokens(studio)


def test_model_and_its_checkpoints(studio: Any) -> None:
    about = studio.get("playground/model", run="tiny@20").json()
    assert (about["run"], about["step"], about["context"], about["problem"]) == ("tiny", 20, 64, "")
    assert set(about["steps"]) >= {10, 20, 30, 40}
    assert about["roles"] == []


def test_deleted_and_damaged_checkpoints(studio: Any, trained_runs: Path) -> None:
    copy = trained_runs / "copy"
    shutil.copytree(trained_runs / "tiny", copy)
    try:
        assert generate(studio, run="copy@10")[0][1]["step"] == 10
        shutil.rmtree(copy / "checkpoints" / "step-00000010")
        assert "no checkpoint '10'" in refusal(studio, run="copy@10")
        weights = copy / "checkpoints" / "step-00000020" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
        assert "step-00000020" in refusal(studio, run="copy@20")
        (copy / "config.toml").write_text("[model")
        assert studio.get("playground/model", run="copy").status_code == 400
    finally:
        shutil.rmtree(copy)
    assert "no run 'copy'" in refusal(studio, run="copy@10")


def test_chat_is_streamed_and_branches(studio: Any, chat_run: str) -> None:
    said = [{"role": "user", "content": "hello <|end|>"}]
    events = generate(studio, run=chat_run, prompt=None, messages=said, tokens=5, seed=3)
    read = [token["text"] for token in events[0][1]["prompt"]]
    assert read[0] == "<|user|>"
    assert read[-2:] == ["<|end|>", "<|assistant|>"]
    assert read.count("<|end|>") == 1, "what a message spells is text"
    answer = [token["id"] for token in tokens_of(events)]
    branch = generate(studio, run=chat_run, prompt=None, messages=said, ids=[*answer[:2], 65], tokens=2)
    assert [token["id"] for token in branch[0][1]["prompt"]][-3:] == [*answer[:2], 65]
    message = refusal(studio, run=chat_run, messages=[{"role": "assistant", "content": "hello"}])
    assert "in turns" in message
    assert "room for" in refusal(studio, run=chat_run, messages=[{"role": "user", "content": "a" * 200}])


def test_episodes_of_a_run(studio: Any, chat_run: str) -> None:
    found = studio.get("playground/episodes", run=chat_run).json()
    answers = [(each["step"], each["answer"], each["reward"]) for each in found["samples"]]
    assert answers == [(1, "quack 1", 0.1), (2, "quack 2", 0.2)]
    assert found["curves"] == {"rollout/reward": [[1, 0.25], [2, 0.5]]}
    assert found["method"] == "grpo"


@pytest.mark.parametrize("content", ["é", "日", "👩‍👩‍👧"])
def test_tokens_that_are_part_of_a_character_are_bytes(content: str) -> None:
    vocabulary = {bytes_to_token(byte): number for number, byte in enumerate(ALPHABET)}
    tokenizer = HFTokenizer.from_json(bpe_json(vocabulary, [], None, "gpt2"))
    tokens = [TokenJSON(tokenizer).token(int(token)) for token in tokenizer.encode(content)]
    assert bytes.fromhex("".join(token["bytes"] for token in tokens)).decode() == content
    assert not any(token["text"] for token in tokens)


# The page, in a browser.


def open_playground(page: Any, parameters: str) -> None:
    page.goto(page.url.partition("#")[0] + f"#/playground?{parameters}")
    page.get_by_role("heading", name="Playground").wait_for()


def write(page: Any, prompt: str, tokens: int) -> None:
    page.get_by_label("Greedy").check()  # a text by chance may end by itself
    page.fill("#setting-tokens", str(tokens))
    page.fill("#prompt", prompt)
    page.get_by_role("button", name="Generate", exact=True).click()


def test_page_streams_and_branches(page: Any) -> None:
    open_playground(page, "run=tiny")
    write(page, "the ", 30)
    page.get_by_text("reached the limit").wait_for()
    tokens = page.locator(".side .token")
    assert tokens.count() == 34
    before = [tokens.nth(place).inner_text() for place in range(10)]
    tokens.nth(10).click()
    rival = page.locator(".rival:not(.taken)").first
    name = rival.locator(".name").inner_text()
    rival.click()
    page.get_by_text("Branches 2").wait_for()
    page.get_by_text("reached the limit").wait_for()
    assert [tokens.nth(place).inner_text() for place in range(10)] == before
    assert tokens.nth(10).inner_text().strip() == name.strip()
    assert tokens.count() == 41, "the branch has as many new tokens as were asked for"
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("The same up to token 10").wait_for()
    page.locator(".side .token").nth(11).click()
    assert check(page) == []
    page.get_by_role("button", name="Delete branch 1").click()
    page.get_by_text("Every token is shown").wait_for()


def test_page_by_keyboard_only(page: Any) -> None:
    open_playground(page, "run=tiny&prompt=fox%20")
    page.locator("#prompt").focus()
    page.wait_for_function("() => document.getElementById('prompt').value === 'fox '")
    page.keyboard.press("Control+Enter")
    page.get_by_text("tokens/s").wait_for()
    page.locator(".side .token[tabindex='0']").focus()
    for key in ("End", "ArrowLeft", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    page.locator(".rival.chosen").wait_for()
    assert page.locator(".rival").nth(1).evaluate("rival => rival.classList.contains('chosen')")
    page.keyboard.press("Enter")
    page.get_by_text("Branches 2").wait_for()


def test_stop_and_leaving_free_the_slot(page: Any, studio: Any) -> None:
    open_playground(page, "run=tiny")
    for end in (lambda: page.get_by_role("button", name="Stop").click(), lambda: page.goto("about:blank")):
        before = generated_tokens(studio)
        write(page, "the ", 4000)
        page.locator(".side .token").nth(6).wait_for()
        end()
        wait_until_idle(studio)
        assert 0 < generated_since(studio, before) < 4000


def test_two_checkpoints_side_by_side(page: Any) -> None:
    open_playground(page, "run=tiny@40&run2=tiny@10")
    write(page, "the quick ", 20)
    for step in (40, 10):
        side = page.get_by_label(f"Text of tiny, step {step}")
        side.get_by_text("reached the limit").wait_for()
        assert side.locator(".token").count() == 30
        assert side.locator(".token.prompt").count() == 10


def test_page_chats_and_shows_episodes(page: Any, chat_run: str) -> None:
    open_playground(page, f"run={chat_run}&tab=chat")
    page.get_by_label("Greedy").check()
    page.fill("#setting-tokens", "6")
    page.fill("#message", "hello")
    page.keyboard.press("Enter")
    page.get_by_text("tokens/s").wait_for()
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edited message").fill("hello again")
    page.get_by_role("button", name="Send again").click()
    page.get_by_text("hello again", exact=True).first.wait_for()
    assert page.locator(".turn").count() == 1
    assert check(page) == []
    page.get_by_role("button", name="Start over").click()
    page.get_by_text("Write the first message").wait_for()
    page.get_by_role("button", name="Episodes").click()
    page.get_by_text("quack 2").wait_for()
    page.locator("#reward-curve canvas").wait_for()
    assert check(page) == []
    open_playground(page, "run=tiny&tab=chat")
    page.get_by_text("This model does not converse").wait_for()


def test_page_shows_problems_in_words(page: Any) -> None:
    open_playground(page, "run=nothing")
    page.get_by_text("there is no run 'nothing'").wait_for()
    open_playground(page, "run=tiny")
    write(page, "the 水", 5)
    page.get_by_text("is not in the vocabulary").wait_for()
