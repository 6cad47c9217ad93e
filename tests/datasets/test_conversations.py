"""Files of conversations, answers and preferences → examples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.datasets.conversations import Reader, find_format, read_examples
from fledge.datasets.examples import Example, fingerprint, split_examples
from fledge.datasets.records import Record
from fledge.tokenizers.chat_template import ROLES

SYSTEM, HI = {"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}
HELLO, WHAT = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "What?"}
MORE = {"role": "user", "content": "More"}
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Records → a file of JSON lines, and its path."""

    def lines(*records: object, name: str = "data.jsonl") -> str:
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(tmp_path / name)

    return lines


def sharegpt(*turns: tuple[str, str], **more: str) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], **more}


ANSWERED = Example((HI,), target="Hello!")
PREFERRED = Example((HI,), chosen="Hello!", rejected="What?")
LONG = Example((SYSTEM, HI, HELLO, MORE), target="What?")
CASES: dict[str, tuple[dict[str, Any], Example]] = {
    "messages": ({"messages": [HI, HELLO]}, ANSWERED),
    "several turns": ({"messages": [SYSTEM, HI, HELLO, MORE, WHAT]}, LONG),
    "a question at the end": ({"messages": [HI, HELLO, MORE]}, ANSWERED),
    "no answer": ({"messages": [HI]}, Example((HI,))),
    "no question": ({"messages": [HELLO]}, Example((), target="Hello!")),
    "messages and target": ({"messages": [HI], "target": 42}, Example((HI,), target="42")),
    "sharegpt": (sharegpt(("human", "Hi"), ("gpt", "Hello!")), ANSWERED),
    "sharegpt with a system message": (
        sharegpt(("human", "Hi"), ("gpt", "Hello!"), ("human", "More"), ("gpt", "What?"), system="Be short."),
        LONG,
    ),
    "conversations with roles": ({"conversations": [HI, HELLO]}, ANSWERED),
    "alpaca": ({"instruction": "Hi", "input": "", "output": "Hello!"}, ANSWERED),
    "alpaca without input": ({"instruction": "Hi ", "output": " Hello!"}, ANSWERED),
    "alpaca with input": (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be short."},
        Example((SYSTEM, {"role": "user", "content": "Add.\n\n1, 2"}), target="3"),
    ),
    "prompt and completion": ({"prompt": "Hi", "completion": " Hello!"}, ANSWERED),
    "prompt and completion as messages": ({"prompt": [HI], "completion": [HELLO]}, ANSWERED),
    "preference": ({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, PREFERRED),
    "preference as messages": ({"prompt": [HI], "chosen": [HELLO], "rejected": [WHAT]}, PREFERRED),
    "preference of whole conversations": ({"chosen": [HI, HELLO], "rejected": [HI, WHAT]}, PREFERRED),
    "preference of whole conversations with a system message": (
        {"system": "Be kind.", "chosen": [HI, HELLO], "rejected": [HI, WHAT]},
        Example(({"role": "system", "content": "Be kind."}, HI), chosen="Hello!", rejected="What?"),
    ),
    "whole conversations beside the prompt": (
        {"prompt": "Hi", "chosen": [HI, HELLO], "rejected": [HI, WHAT]},
        PREFERRED,
    ),
    "preference of texts": (
        {"chosen": "The sky is blue.", "rejected": "The sky is brown."},
        Example(({"role": "user", "content": "The sky is"},), chosen="blue.", rejected="brown."),
    ),
    "HH-RLHF": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: More\n\nAssistant: Yes",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: More\n\nAssistant: No",
        },
        Example((HI, HELLO, MORE), chosen="Yes", rejected="No"),
    ),
    "prompt": ({"prompt": "Hi"}, Example((HI,))),
    "prompt and target": ({"prompt": [HI], "target": "Hello!"}, ANSWERED),
    "prompt and answer": ({"prompt": "Hi", "answer": 7}, Example((HI,), target="7")),
    "other fields": (
        {"prompt": "Hi", "topic": "ducks", "level": 3, "tags": ["a"], "none": None},
        Example((HI,), fields={"topic": "ducks", "level": "3"}),
    ),
}


@pytest.mark.parametrize(("record", "expected"), CASES.values(), ids=CASES)
def test_formats(write: Write, record: dict[str, Any], expected: Example) -> None:
    assert read_examples([write(record, record)]) == [expected] * 2


def test_format_is_told(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write({"instruction": "Hi", "output": "Hello!"})
    read_examples([path])
    assert capsys.readouterr().err == f"{path}: 1 example (Alpaca: instruction, output)\n"


def test_kinds_of_files(tmp_path: Path) -> None:
    records = [{"messages": [HI, HELLO]}, {"messages": [HI, WHAT]}]
    lines = "\n\n".join(json.dumps(record) for record in records)
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines)
    (tmp_path / "b.json").write_text(json.dumps(records, indent=2))
    (tmp_path / "c.json").write_text(lines)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "d.parquet")
    with pa.output_stream(str(tmp_path / "e.jsonl.gz"), compression="gzip") as file:
        file.write(lines.encode())
    (tmp_path / "README.md").write_text("About these files.")
    expected = [ANSWERED, Example((HI,), target="What?")]
    for file in sorted(tmp_path.iterdir())[1:]:
        assert read_examples([str(file)]) == expected, file
    assert read_examples([str(tmp_path)]) == expected * 5
    assert read_examples([str(tmp_path / "*.json"), str(tmp_path / "a.jsonl")]) == expected * 3


def test_lone_surrogates_are_replaced(write: Write) -> None:
    assert read_examples([write({"prompt": "a\ud800"})])[0].messages[0]["content"] == "a\ufffd"


BAD: dict[str, tuple[list[object], str]] = {
    "unknown format": (
        [{"question": "a", "reply": "b"}],
        "line 1 is no example in a known format: it has 'questi",
    ),
    "empty object": ([{}], "it has nothing"),
    "not an object": ([{"prompt": "a"}, ["a"]], "line 2 is a list, not an object"),
    "another format later": ([{"messages": [HI, HELLO]}, {"prompt": "Hi"}], "line 2 has no 'messages'"),
    "no role": ([{"messages": [{"content": "Hi"}]}], "line 1: message 1 of 'messages' has no role"),
    "unknown role": (
        [{"messages": [HI, {**HELLO, "role": "duck"}]}],
        "message 2 of 'messages' has the unknown role",
    ),
    "role that is a list": ([{"messages": [{"role": [], "content": ""}]}], "unknown role []"),
    "unknown speaker": ([sharegpt(("observation", "x"))], "unknown role 'observation'"),
    "no content": ([{"messages": [{"role": "user"}]}], "has no 'content'"),
    "content that is null": ([{"messages": [{"role": "user", "content": None}]}], "'content' is null, not text"),
    "messages that are text": ([{"messages": "Hi"}], "'messages' is a string, not a list of messages"),
    "no messages": ([{"messages": []}], "'messages' is an empty list"),
    "message that is text": ([{"messages": ["Hi"]}], "message 1 of 'messages' is a string, not an object"),
    "output that is null": ([{"instruction": "Hi", "output": None}], "'output' is null, not text"),
    "different prompts": ([{"chosen": [HI, HELLO], "rejected": [MORE, WHAT]}], "differ before their last messages"),
    "preference without answer": ([{"chosen": [HI], "rejected": [HI, WHAT]}], "'chosen' does not end with an answer"),
    "nothing in common": ([{"chosen": "Hello", "rejected": "What"}], "have no common beginning"),
}


@pytest.mark.parametrize(("records", "message"), BAD.values(), ids=BAD)
def test_bad_records_are_refused_with_their_place(write: Write, records: list[object], message: str) -> None:
    path = write(*records)
    with pytest.raises(UserError) as error:
        read_examples([path])
    assert message in error.value.message
    assert path in error.value.message
    assert error.value.hint


KEYS = ["messages", "conversations", "prompt", "completion", "chosen", "rejected", "instruction", "input", "output"]
KEYS += ["role", "content", "from", "value", "system", "target", "answer"]
TEXTS = st.sampled_from(["", "user", "assistant", "gpt", "\n\nHuman: a\n\nAssistant: b", "The sky is", "The sky was"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=4))
def test_any_record_becomes_an_example_or_an_error_with_its_place(values: dict[str, Any]) -> None:
    refused, example = "", Example(())
    try:
        record = Record("data.jsonl", "'data.jsonl' line 7", values)
        example = Reader(record.place, find_format(record)).example(values)
    except UserError as error:
        refused = error.message
    assert not refused or ("'data.jsonl' line 7" in refused and "\n" not in refused)
    texts = [*(each["content"] for each in example.messages), example.target, example.chosen, example.rejected]
    assert all(isinstance(text, str | None) for text in texts)
    assert all(each["role"] in ROLES for each in example.messages)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": ', "line 2 is not JSON"),
        ("a.json", '[{"prompt": "a"}, ', "is not JSON"),
        ("a.json", '[{"prompt": "a"}, 3]', "example 2 is a number, not an object"),
        ("a.json", " \n", "is empty"),
        ("a.json", "[]", "there are no examples in"),
        ("a.txt", "Once upon a time", "holds no examples"),
        ("a.parquet", "PAR1", "is damaged"),
        ("a.jsonl", "", "is empty"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_examples([str(tmp_path / name)])


def test_sources_without_examples_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "more.txt").write_text("text")
    with pytest.raises(UserError, match="there are no examples in"):
        read_examples([str(tmp_path)])
    with pytest.raises(UserError, match="no such file"):
        read_examples([str(tmp_path / "missing.jsonl")])
    with pytest.raises(UserError, match="not sampled by weight"):
        read_examples([f"{tmp_path / 'notes.txt'}.jsonl:0.5"])


def numbered(count: int) -> list[Example]:
    return [Example(({"role": "user", "content": str(n)},), target="x") for n in range(count)]


@given(st.permutations(range(30)), st.integers(1, 9))
def test_held_out_examples_do_not_depend_on_the_order(order: list[int], val: int) -> None:
    examples = numbered(30)
    train, held_out = split_examples([examples[n] for n in order], val)
    assert len(held_out) == min(val, 3)
    assert [each for each in train if each in held_out] == []
    assert {each.messages[0]["content"] for each in [*train, *held_out]} == set(map(str, range(30)))
    _, expected = split_examples(examples, val)
    assert sorted(map(str, held_out)) == sorted(map(str, expected))


def test_one_question_is_on_one_side() -> None:
    examples = numbered(20) * 3
    train, held_out = split_examples(examples, 6)
    assert len(held_out) == 6
    assert not {each.messages[0]["content"] for each in train} & {each.messages[0]["content"] for each in held_out}
    assert split_examples([ANSWERED] * 50, 5) == ([ANSWERED] * 50, [])


def test_fingerprint_changes_with_any_example() -> None:
    examples = numbered(3)
    changed = [*examples[:2], Example(examples[2].messages, target="y")]
    prints = [fingerprint(each) for each in (examples, changed, examples[::-1], examples[:2])]
    assert len(set(prints)) == 4
    assert fingerprint(numbered(3)) == prints[0]
