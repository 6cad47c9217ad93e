"""Records → examples for alignment, in the usual formats. The first record of a file tells which one it is.

    messages          {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
    ShareGPT          {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}
    Alpaca            {"instruction": "Translate.", "input": "Hallo", "output": "Hello"}
    prompt, answer    {"prompt": "Hi", "completion": "Hello!"}
    preferences       {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    prompts           {"prompt": "1 + 1 =", "target": "2"}, with or without "target"

Prompt, completion, chosen and rejected may be lists of messages too. Without a prompt, chosen and rejected are whole
conversations that begin alike. Other keys with text or numbers are kept for reward functions.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fledge.core.errors import UserError
from fledge.core.formatting import counted
from fledge.core.progress import notice
from fledge.datasets.examples import Example
from fledge.datasets.records import Record, read_records
from fledge.text.chunking import SURROGATE
from fledge.text.jsonl import type_name
from fledge.tokenizers.chat_template import ROLES, Message

SPEAKERS = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human", "Human"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "Assistant"), "assistant"),
}
TARGETS = ("target", "answer")  # keys of the right answer, for rewards
OPTIONAL = ("prompt", "input", "system")
TURNS = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")  # of conversations written as one text
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Format:
    name: str
    keys: tuple[str, ...]  # that a record must have
    read: Callable[["Reader", Values], Example]

    def __str__(self) -> str:
        return self.name if self.keys == (self.name,) else f"{self.name}: {', '.join(self.keys)}"


def read_examples(sources: Sequence[str]) -> list[Example]:
    """All examples of all sources, in order. A notice tells the format of each file."""
    found = list[Example]()
    for source in sources:
        before = len(found)
        found += _read_source(source)
        if len(found) == before:
            raise UserError(f"there are no examples in '{source}'", FORMATS_HINT)
    return found


def _read_source(source: str) -> Iterator[Example]:
    file, count, form = "", 0, None
    for record in read_records(source):
        if form is None or record.file != file:
            _tell(file, count, form)
            file, count, form = record.file, 0, find_format(record)
        count += 1
        yield Reader(record.place, form).example(record.values)
    _tell(file, count, form)


def _tell(file: str, count: int, form: Format | None) -> None:
    if form is not None:
        notice(f"{file}: {counted(count, 'example')} ({form})")


def find_format(record: Record) -> Format:
    """By the keys of the record."""
    keys = record.values.keys()
    for form in FORMATS:
        if keys >= set(form.keys):
            return form
    names = ", ".join(f"'{key}'" for key in keys) or "nothing"
    raise UserError(f"{record.place} is no example in a known format: it has {names}", FORMATS_HINT)


@dataclass(frozen=True)
class Reader:
    """Reads one record; errors name its place."""

    place: str
    form: Format

    def example(self, values: Values) -> Example:
        for key in self.form.keys:
            if key not in values:
                raise UserError(
                    f"{self.place} has no '{key}', which the first example of the file has",
                    "all examples of a file have one format",
                )
        example = self.form.read(self, values)
        for key in TARGETS:
            if example.target is None and values.get(key) is not None:
                example = replace(example, target=self.text(values, key).strip())
        others = {key: value for key, value in values.items() if key not in {*self.form.keys, *TARGETS, *OPTIONAL}}
        return replace(example, fields={key: str(v) for key, v in others.items() if isinstance(v, str | int | float)})

    def conversation(self, values: Values) -> Example:
        """{"messages": […]} or {"conversations": […]}"""
        messages = self.messages(values, self.form.keys[0])
        return split_answer([*self.system(values), *messages])

    def alpaca(self, values: Values) -> Example:
        parts = [self.text(values, "instruction"), self.text(values, "input") if values.get("input") else ""]
        question = "\n\n".join(part.strip() for part in parts if part.strip())
        return Example((*self.system(values), user(question)), target=self.text(values, "output").strip())

    def completion(self, values: Values) -> Example:
        answer = self.turns(values, "completion", "assistant")
        return split_answer([*self.system(values), *self.turns(values, "prompt", "user"), *answer])

    def prompt(self, values: Values) -> Example:
        return Example((*self.system(values), *self.turns(values, "prompt", "user")))

    def preference(self, values: Values) -> Example:
        if "prompt" not in values and all(isinstance(values[key], str) for key in ("chosen", "rejected")):
            return self.preference_of_texts(self.text(values, "chosen"), self.text(values, "rejected"))
        system, prompt = self.system(values), self.turns(values, "prompt", "user") if "prompt" in values else []
        chosen, rejected = (
            self.whole(system, prompt, self.turns(values, key, "assistant")) for key in ("chosen", "rejected")
        )
        return self.pair(chosen, rejected)

    def preference_of_texts(self, chosen: str, rejected: str) -> Example:
        """Human: …  Assistant: …, as in HH-RLHF; or two texts that begin alike."""
        if TURNS.match(chosen) and TURNS.match(rejected):
            return self.pair(*(written_turns(text) for text in (chosen, rejected)))
        same = next((n for n, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        prompt = re.sub(r"\S*$", "", chosen[:same])  # whole words
        if not prompt.strip():
            raise UserError(
                f"{self.place}: 'chosen' and 'rejected' have no common beginning, and there is no 'prompt'",
                'give the question too: {"prompt": "…", "chosen": "…", "rejected": "…"}',
            )
        return Example((user(prompt.strip()),), chosen[len(prompt) :].strip(), rejected[len(prompt) :].strip())

    def whole(self, system: list[Message], prompt: list[Message], answer: list[Message]) -> list[Message]:
        """An answer that is a whole conversation repeats the prompt."""
        if answer[0]["role"] == "assistant":
            return [*system, *prompt, *answer]
        return answer if answer[0]["role"] == "system" else [*system, *answer]

    def pair(self, chosen: list[Message], rejected: list[Message]) -> Example:
        for name, messages in (("chosen", chosen), ("rejected", rejected)):
            if messages[-1]["role"] != "assistant":
                raise UserError(f"{self.place}: '{name}' does not end with an answer", "its last message is the answer")
        if chosen[:-1] != rejected[:-1]:
            raise UserError(
                f"{self.place}: 'chosen' and 'rejected' differ before their last messages",
                "both must answer the same conversation",
            )
        return Example(tuple(chosen[:-1]), chosen[-1]["content"], rejected[-1]["content"])

    def system(self, values: Values) -> list[Message]:
        return [{"role": "system", "content": self.text(values, "system")}] if values.get("system") else []

    def turns(self, values: Values, key: str, role: str) -> list[Message]:
        """A text is one message of `role`."""
        if isinstance(values[key], str):
            return [{"role": role, "content": self.text(values, key).strip()}]
        return self.messages(values, key)

    def messages(self, values: Values, key: str) -> list[Message]:
        listed = values[key]
        if not isinstance(listed, list) or not listed:
            found = "an empty list" if isinstance(listed, list) else type_name(listed)
            raise UserError(f"{self.place}: '{key}' is {found}, not a list of messages", MESSAGE_HINT)
        return [self.message(each, f"message {number} of '{key}'") for number, each in enumerate(listed, 1)]

    def message(self, value: Any, name: str) -> Message:
        if not isinstance(value, dict):
            raise UserError(f"{self.place}: {name} is {type_name(value)}, not an object", MESSAGE_HINT)
        role_key, text_key = ("from", "value") if "from" in value and "role" not in value else ("role", "content")
        if role_key not in value:
            raise UserError(f"{self.place}: {name} has no role", MESSAGE_HINT)
        role = value[role_key]
        if role not in (list(SPEAKERS) if role_key == "from" else ROLES):  # a list, as it may be anything
            known = "human, gpt, system" if role_key == "from" else ", ".join(ROLES)
            raise UserError(f"{self.place}: {name} has the unknown role {role!r}", f"the roles are: {known}")
        if text_key not in value:
            raise UserError(f"{self.place}: {name} has no '{text_key}'", MESSAGE_HINT)
        return {"role": SPEAKERS[role], "content": self.text(value, text_key, f"{name}, ")}

    def text(self, values: Values, key: str, within: str = "") -> str:
        value = values[key]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise UserError(f"{self.place}: {within}'{key}' is {type_name(value)}, not text", "it must be a text")
        return SURROGATE.sub("\ufffd", value)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def split_answer(messages: Sequence[Message]) -> Example:
    """The last answer becomes the target; what comes after it has no answer."""
    answers = [number for number, each in enumerate(messages) if each["role"] == "assistant"]
    if not answers:
        return Example(tuple(messages))
    return Example(tuple(messages[: answers[-1]]), target=messages[answers[-1]]["content"])


def written_turns(text: str) -> list[Message]:
    """Human: Hi  Assistant: Hello! → messages"""
    parts = TURNS.split(text)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": SPEAKERS[speaker], "content": content.strip()} for speaker, content in pairs]


# The first whose keys a record has.
FORMATS = (
    Format("preferences", ("chosen", "rejected"), Reader.preference),
    Format("messages", ("messages",), Reader.conversation),
    Format("ShareGPT", ("conversations",), Reader.conversation),
    Format("Alpaca", ("instruction", "output"), Reader.alpaca),
    Format("prompt and answer", ("prompt", "completion"), Reader.completion),
    Format("prompts", ("prompt",), Reader.prompt),
)
FORMATS_HINT = (
    'an example is one of {"messages": […]}, {"prompt", "completion"}, {"prompt", "chosen", "rejected"},'
    ' {"instruction", "input", "output"}, {"conversations": […]}, {"prompt", "target"}'
)
MESSAGE_HINT = 'a message looks like {"role": "user", "content": "Hello!"}'
