"""/v1/completions and /v1/chat/completions, as OpenAI's own client sees them."""

import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from fledge.inference.generate import prompt_ids
from fledge.losses.logprobs import logits_logprobs
from fledge.tokenizers.hf import HFTokenizer

openai = pytest.importorskip("openai")
pytest.importorskip("uvicorn")

from serving import END, TEXT, Running, make_model, serving  # noqa: E402

PROMPT = "the quick "


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    words = HFTokenizer.train([TEXT + "äöü€ " * 9], 280, END)
    with serving(make_model(), make_model("words", tokenizer=words)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def logprobs_of(server: Running, ids: list[int]) -> list[float]:
    """Of ids[1:], by the model itself."""
    model = server.decoder().model
    with torch.no_grad():
        logits = model.head(model.hidden(torch.tensor([ids])))
    return logits_logprobs(logits[:, :-1], torch.tensor([ids[1:]]))[0].tolist()


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "words"]
    assert client.models.retrieve("words").max_model_len == 64
    with pytest.raises(openai.NotFoundError, match="this server has: tiny, words"):
        client.models.retrieve("nobody")


def test_completion_usage_and_finish_reason(server: Running, client: Any) -> None:
    found = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=7, temperature=0)
    assert found.object == "text_completion"
    (choice,) = found.choices
    assert (choice.finish_reason, len(choice.text), choice.logprobs) == ("length", 7, None)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (10, 7, 17)
    ids = [int(i) for i in prompt_ids(server.models["tiny"].tokenizer, PROMPT)]
    by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=7, temperature=0)
    assert by_ids.choices[0].text == choice.text


def test_many_prompts_and_samples_are_in_order(client: Any) -> None:
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 5, "seed": 3, "echo": True}
    found = client.completions.create(prompt=["a ", "the ", "dog "], n=2, **options)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3, 4, 5]
    assert [choice.text[:-5] for choice in found.choices] == ["a ", "a ", "the ", "the ", "dog ", "dog "]
    assert found.usage.prompt_tokens == 2 + 4 + 4
    assert found.usage.completion_tokens == 30
    alone = client.completions.create(prompt="the ", n=2, **options)
    assert [choice.text for choice in alone.choices] == [choice.text for choice in found.choices[2:4]]
    assert alone.choices[0].text != alone.choices[1].text


def test_stop_string_is_not_part_of_the_text(client: Any) -> None:
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, temperature=0).choices[0]
    stop = whole.text[8:10]
    cut = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, temperature=0, stop=[stop]).choices[0]
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_echoed_logprobs_are_those_of_the_model(server: Running, client: Any, max_tokens: int) -> None:
    found = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=max_tokens, temperature=0, echo=True, logprobs=2
    )
    (choice,) = found.choices
    count = len(PROMPT) + max_tokens
    assert choice.text.startswith(PROMPT)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == list(range(count))
    assert choice.logprobs.token_logprobs[0] is choice.logprobs.top_logprobs[0] is None
    tokenizer = server.models["tiny"].tokenizer
    ids = [int(i) for i in tokenizer.encode(choice.text)]
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(logprobs_of(server, ids), abs=1e-4)
    known = (choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs)
    for token, logprob, top in list(zip(*known, strict=True))[1:]:
        assert top[token] == logprob
        assert len(top) in (2, 3)  # the token itself may be none of the two best
    assert found.usage.completion_tokens == max_tokens


def test_stream_equals_the_whole_answer(client: Any) -> None:
    options: dict[str, Any] = {
        "model": "words", "prompt": ["the ", "a €"], "n": 2, "seed": 5, "max_tokens": 12, "echo": True, "logprobs": 1,
    }  # fmt: skip
    whole = client.completions.create(**options)
    events = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert [event.usage for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].choices == []
    assert events[-1].usage == whole.usage
    for choice in whole.choices:
        pieces = [each for event in events for each in event.choices if each.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [choice.finish_reason]
        for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [value for piece in pieces for value in getattr(piece.logprobs, key)]
            assert joined == getattr(choice.logprobs, key)


def test_half_a_character_is_never_sent(client: Any) -> None:
    stream = client.completions.create(model="words", prompt="€", max_tokens=40, seed=1, stream=True, temperature=2)
    whole = client.completions.create(model="words", prompt="€", max_tokens=40, seed=1, temperature=2)
    assert "".join(event.choices[0].text for event in stream) == whole.choices[0].text


def test_chat(client: Any) -> None:
    messages = [
        {"role": "system", "content": "be "},
        {"role": "user", "content": [{"type": "text", "text": "the fox"}]},
    ]
    options: dict[str, Any] = {"model": "tiny", "messages": messages, "max_completion_tokens": 9, "seed": 1, "n": 2}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=3)
    assert [choice.message.role for choice in whole.choices] == ["assistant"] * 2
    for choice in whole.choices:
        assert "".join(each.token for each in choice.logprobs.content if each.bytes) == choice.message.content
        assert all(len(each.top_logprobs) == 3 for each in choice.logprobs.content)
        assert all(math.exp(each.logprob) <= 1 for each in choice.logprobs.content)
    assert whole.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in whole.choices)
    events = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert events[-1].usage == whole.usage
    for choice in whole.choices:
        pieces = [each for event in events for each in event.choices if each.index == choice.index]
        assert pieces[0].delta.role == "assistant"
        assert "".join(piece.delta.content or "" for piece in pieces) == choice.message.content
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [choice.finish_reason]


def test_chat_ends_where_the_context_is_full(client: Any) -> None:
    messages = [{"role": "user", "content": "the " * 10}]
    found = client.chat.completions.create(model="tiny", messages=messages, seed=1)
    assert found.usage.total_tokens <= 65
    assert found.choices[0].finish_reason == ("length" if found.usage.total_tokens == 65 else "stop")


def test_sampling_options_change_the_text(server: Running, client: Any) -> None:
    tokenizer = server.models["tiny"].tokenizer
    token = int(tokenizer.encode("q")[0])
    options: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 6, "seed": 1}
    biased = client.completions.create(**options, logit_bias={str(token): 100})
    assert biased.choices[0].text == "qqqqqq"
    greedy = client.completions.create(**options, temperature=0).choices[0].text
    for extension in ({"top_k": 1}, {"min_p": 1}):
        assert client.completions.create(**options, extra_body=extension).choices[0].text == greedy
    assert client.completions.create(**options, top_p=1e-9).choices[0].text == greedy
    free = client.completions.create(**options, extra_body={"top_k": -1, "unknown_field": {}}).choices[0].text
    assert free == client.completions.create(**options).choices[0].text


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [0, 10**6]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "the " * 17}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**18}, "max_tokens"),
    ({"max_tokens": "7"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"n": 10**9}, "n"),
    ({"n": 0}, "n"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"logprobs": 21}, "logprobs"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"stop": ""}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"suffix": "x"}, "suffix"),
    ({"best_of": 2}, "best_of"),
    ({"n": 60, "prompt": ["a"]}, None),  # more than slots and queue
    ({"n": 128, "prompt": ["the"] * 500_000}, None),  # nothing is done for each of them
    ({"logit_bias": {str(token): -100 for token in range(30)}}, None),  # all tokens
]


@pytest.mark.parametrize(("wrong", "param"), BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_values_are_refused_by_name(
    server: Running, wrong: dict[str, Any], param: str | None, stream: bool
) -> None:
    if stream and param == "stream_options":
        return
    answer = server.post("completions", **{"model": "tiny", "prompt": "the", "stream": stream, **wrong})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


MALFORMED = {
    "empty": b"",
    "cut": b"{",
    "list": b"[]",
    "string": b'"x"',
    "not UTF-8": b"\xff",
    "deep": b"[" * 100_000,
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinite": b'{"prompt": "a", "seed": 1e999}',
    "huge": b'{"prompt": "a", "n": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"model": "words", "prompt": "\\ud800"}',
    "surrogate key": b'{"prompt": "a", "logit_bias": {"\\ud800": 1}}',
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bodies_are_refused(server: Running, content: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


BAD_CHATS: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {"top_logprobs": 2},
    {"tools": [{}]},
    {"response_format": {"type": "json_object"}},
    {"max_completion_tokens": 99},
]


@pytest.mark.parametrize("wrong", BAD_CHATS)
def test_bad_chats_are_refused(server: Running, wrong: dict[str, Any]) -> None:
    body = {"model": "words", "messages": [{"role": "user", "content": "the"}], **wrong}
    assert server.post("chat/completions", **body).status_code == 400


EXPLAINED: list[tuple[str, dict[str, Any], str]] = [
    ("completions", {"prompt": [-1]}, "prompt: expected text, token ids from 0, or a list of one of them"),
    ("completions", {"prompt": ["a", 3]}, "prompt: expected text"),
    ("completions", {"prompt": "a", "stop": ["a", ""]}, "stop: expected a text of 1 to 1,000 characters"),
    ("chat/completions", {"tools": [{}]}, "tools: tools are not supported"),
    ("chat/completions", {"messages": [{"role": "x"}]}, "messages.0.role: Input should be 'system', 'developer'"),
    ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no images"),
]


@pytest.mark.parametrize(("path", "wrong", "message"), EXPLAINED)
def test_wrong_value_is_explained(server: Running, path: str, wrong: dict[str, Any], message: str) -> None:
    body = {"model": "words", "messages": [{"role": "user", "content": "the"}], **wrong}
    assert message in server.post(path, **body).json()["error"]["message"]


def test_errors_of_the_client_library(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-9", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="tiny", prompt="the " * 17)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt="the ", logit_bias={str(i): -100 for i in range(40)})
