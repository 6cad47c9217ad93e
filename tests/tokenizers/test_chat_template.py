"""Chat templates: the ids that transformers gives, text that is only text, and a sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.tokenizers.base import Tokenizer, parse_tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import CHAT_TOKENS, ChatTemplate, chat_settings, find_chat_template
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{% generation %}{{ message['content'] + eos_token}}{% endgeneration %}{% endif %}{% endfor %}"
)
TOKENS = {
    CHATML: ("<|im_start|>", "<|im_end|>"),
    LLAMA3: ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"),
    MISTRAL: ("<s>", "</s>"),
}
NAMES = {
    CHATML: {"eos_token": "<|im_end|>"},
    LLAMA3: {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    MISTRAL: {"bos_token": "<s>", "eos_token": "</s>"},
}
TEXT = "Once upon a time there was a duck, and the duck could write. assistant user system " * 20
BASE = HFTokenizer.train([TEXT], 300).to_json()
TALK = [
    {"role": "user", "content": "  Hello, duck!\n"},
    {"role": "assistant", "content": "Quack."},
    {"role": "user", "content": "And then?"},
]


def tokenizer_with(tokens: tuple[str, ...], **flags: bool) -> Tokenizer:
    added = added_tokens_json([(300 + i, token, True) for i, token in enumerate(tokens)])
    return parse_tokenizer({**BASE, "added_tokens": [{**token, **flags} for token in added]}, "the test's")


def template_of(source: str) -> ChatTemplate:
    found = find_chat_template(tokenizer_with(TOKENS[source]), {"chat_template": source, **NAMES[source]})
    assert found is not None
    return found


def token(source: str, name: str) -> int:
    return 300 + TOKENS[source].index(name)


@pytest.fixture
def transformers_ids(tmp_path: Path) -> Any:
    """The ids that transformers gives for a conversation."""
    transformers = pytest.importorskip("transformers")

    def ids(source: str, messages: list[dict[str, str]], add_generation_prompt: bool, **flags: bool) -> list[int]:
        content = tokenizer_with(TOKENS[source], **flags).to_json()
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(tmp_path / "tokenizer.json"), chat_template=source, **NAMES[source]
        )
        return theirs.apply_chat_template(messages, add_generation_prompt=add_generation_prompt)["input_ids"]  # type: ignore[no-any-return]

    return ids


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("source", [CHATML, LLAMA3, MISTRAL], ids=["chatml", "llama3", "mistral"])
def test_ids_equal_those_of_transformers(transformers_ids: Any, source: str, add_generation_prompt: bool) -> None:
    expected = transformers_ids(source, TALK, add_generation_prompt)
    assert template_of(source).encode(TALK, add_generation_prompt=add_generation_prompt) == expected
    assert len(set(expected) & set(range(300, 310))) > 1


def test_special_tokens_that_take_white_space_do_so(transformers_ids: Any) -> None:
    flags = {"lstrip": True, "rstrip": True}
    template = ChatTemplate(tokenizer_with(TOKENS[CHATML], **flags), {"chat_template": CHATML})
    assert template.encode(TALK) == transformers_ids(CHATML, TALK, True, **flags)
    assert template.encode(TALK) != template_of(CHATML).encode(TALK)


@pytest.mark.parametrize(
    ("source", "names"),
    [(CHATML, ["<|im_end|>"]), (LLAMA3, ["<|eot_id|>", "<|end_of_text|>"]), (MISTRAL, ["</s>"])],
    ids=["chatml", "llama3", "mistral"],
)
def test_stop_tokens_are_end_of_turn_and_eos(source: str, names: list[str]) -> None:
    assert template_of(source).stop_tokens == tuple(token(source, name) for name in names)


PARTS = ["<|im_start|>", "<|im_end|>", "<|im_", "end|>", "<|", "|>", "<", " ", "\n", "im_end", "x"]


@given(st.lists(st.sampled_from(PARTS)))
def test_message_never_becomes_a_special_token(parts: list[str]) -> None:
    content = "".join(parts)
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": f"<{content}"}]
    template, tokenizer = template_of(CHATML), tokenizer_with(TOKENS[CHATML])
    ids = template.encode(messages)
    start, end = token(CHATML, "<|im_start|>"), token(CHATML, "<|im_end|>")
    assert [i for i in ids if i >= 300] == [start, end, start, end, start]
    between = tokenizer.decode(ids)
    assert between == f"user\n{content}\nassistant\n<{content}\nassistant\n"


def test_message_does_not_complete_a_name_that_the_template_began() -> None:
    source = "<|{{ messages[0].content }}|>{{ messages[0].content }}|>"
    template = ChatTemplate(tokenizer_with(("<|im_end|>",)), {"chat_template": source})
    for content in ("im_end", "im_end|>", "<|im_end"):
        assert 300 not in template.encode([{"role": "user", "content": content}])


def test_tokenizer_with_our_tokens_has_our_template() -> None:
    template = find_chat_template(tokenizer_with(CHAT_TOKENS), {})
    assert template is not None
    tokenizer = tokenizer_with(CHAT_TOKENS)
    system, user, assistant, end = range(300, 304)
    hi, duck = (tokenizer.encode(text).tolist() for text in ("Hi", "duck"))
    messages = [{"role": "system", "content": "duck"}, {"role": "user", "content": "Hi"}]
    assert template.encode(messages) == [system, *duck, end, user, *hi, end, assistant]
    assert template.stop_tokens == (end,)


@pytest.mark.parametrize("tokenizer", [tokenizer_with(()), tokenizer_with(CHAT_TOKENS[:3]), CharTokenizer("abc")])
def test_other_tokenizers_have_none(tokenizer: Tokenizer) -> None:
    assert find_chat_template(tokenizer, {}) is None
    assert find_chat_template(tokenizer, {"chat_template": None, "eos_token": "x"}) is None


def test_settings_are_read_from_every_form_of_the_file() -> None:
    forms = {"chat_template": [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]}
    config = {**forms, "bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None, "model_max_length": 5}
    assert chat_settings(config) == {"chat_template": "b", "bos_token": "<s>"}
    assert chat_settings({"chat_template": [], "bos_token": "<s>"}) == {}


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% set x = messages.append('x') %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{{ undefined.attribute.of }}",
        "{% if %}",
        "{% generation %}",
    ],
)
def test_template_that_misbehaves_is_refused(source: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        ChatTemplate(tokenizer_with(("<s>",)), {"chat_template": source}).encode(TALK)


def test_unknown_role_is_refused() -> None:
    with pytest.raises(UserError, match="cannot have the role"):
        template_of(CHATML).encode([{"role": "<|im_end|>", "content": "x"}])


def test_conversation_that_the_template_refuses_names_the_reason() -> None:
    with pytest.raises(UserError, match="roles must alternate"):
        template_of(MISTRAL).encode(TALK[1:])


DIALOGUE = [*TALK, {"role": "assistant", "content": " It slept.\n"}]
ANSWER = "{% if message.role == 'assistant' %}{% generation %}TEXT{% endgeneration %}{% else %}TEXT{% endif %}"
GENERATION = {  # the same templates, with the marks by which transformers finds the answers
    CHATML: "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + ANSWER.replace("TEXT", "{{ message['content'] + '<|im_end|>' }}")
    + "{{ '\n' }}{% endfor %}",
    LLAMA3: "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>'"
    " + message['role'] + '<|end_header_id|>\n\n' }}"
    + ANSWER.replace("TEXT", "{{ message['content'] | trim + '<|eot_id|>' }}")
    + "{% endfor %}",
    MISTRAL: MISTRAL,
}


@pytest.mark.parametrize("source", GENERATION, ids=["chatml", "llama3", "mistral"])
def test_mask_equals_that_of_transformers(tmp_path: Path, source: str) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_with(TOKENS[source]).to_json()))
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **NAMES[source])
    expected = theirs.apply_chat_template(
        DIALOGUE, chat_template=GENERATION[source], return_dict=True, return_assistant_tokens_mask=True
    )
    ids, is_answer = template_of(source).encode_with_mask(DIALOGUE)
    assert ids == expected["input_ids"]
    assert is_answer == [bool(each) for each in expected["assistant_masks"]]
    assert 0 < sum(is_answer) < len(ids)


@given(st.lists(st.lists(st.sampled_from([*CHAT_TOKENS, "<|", "end|>", " ", "a", "\n"])), min_size=1, max_size=5))
def test_mask_covers_answers_and_their_end_whatever_is_written(contents: list[list[str]]) -> None:
    """Role tokens in a message are text: of the special tokens there are exactly those of the template."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": "".join(parts)} for n, parts in enumerate(contents)]
    tokenizer, (_, user, assistant, end) = tokenizer_with(CHAT_TOKENS), range(300, 304)
    template = find_chat_template(tokenizer, {})
    assert template is not None
    ids, is_answer = template.encode_with_mask(messages)
    expected: list[tuple[int, bool]] = []
    for message in messages:
        answers, text = message["role"] == "assistant", tokenizer.encode(message["content"]).tolist()
        expected += [(assistant if answers else user, False), *((i, answers) for i in [*text, end])]
    assert list(zip(ids, is_answer, strict=True)) == expected
    assert ids == template.encode(messages, add_generation_prompt=False)


def test_no_token_reaches_over_the_beginning_of_an_answer() -> None:
    """As a model generates it: after the ids of the prompt."""
    source = "{% for message in messages %}{{ message.content }}{% endfor %}"
    template = ChatTemplate(tokenizer_with(()), {"chat_template": source})
    messages = [{"role": "user", "content": "Once upon a ti"}, {"role": "assistant", "content": "me there"}]
    ids, is_answer = template.encode_with_mask(messages)
    prompt = template.encode(messages[:1])
    assert ids != template.encode(messages)
    assert ids[: len(prompt)] == prompt
    assert is_answer == [False] * len(prompt) + [True] * (len(ids) - len(prompt))


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages | length }}{% for message in messages %}{{ message.content }}{% endfor %}",
        "{% for message in messages %}{{ message.content if loop.last else '' }}{% endfor %}",
    ],
)
def test_answers_of_a_template_that_rewrites_the_past_are_unknown(source: str) -> None:
    template = ChatTemplate(tokenizer_with(()), {"chat_template": source})
    with pytest.raises(UserError, match="writes a conversation differently"):
        template.encode_with_mask(DIALOGUE)


@pytest.mark.parametrize("role", ["tool", "developer"])
def test_our_template_refuses_roles_that_have_no_token(role: str) -> None:
    template = find_chat_template(tokenizer_with(CHAT_TOKENS), {})
    assert template is not None
    with pytest.raises(UserError, match=f"cannot have the role '{role}'") as error:
        template.encode([{"role": role, "content": "x"}])
    assert error.value.hint == "the roles are: system, user, assistant"
