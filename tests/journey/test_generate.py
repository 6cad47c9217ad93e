"""fledge generate: the text, its options and its errors."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fledge.recipes.generate import generate
from fledge.runs.run_folder import open_run

from .conftest import Home


def generated(home, capsys: pytest.CaptureFixture[str], *words: str) -> str:  # type: ignore[no-untyped-def]
    capsys.readouterr()
    assert home.do("generate", "bird", *words) == 0
    return capsys.readouterr().out


def test_text_begins_with_prompt_and_has_the_length(trained, capsys: pytest.CaptureFixture[str]) -> None:
    text = generated(trained, capsys, "--prompt", "the quick", "--tokens", "30", "--temperature", "0.5")
    assert text.startswith("the quick")
    assert text.endswith("\n")
    assert 0 < len(text) - len("the quick") - 1 <= 30


def test_same_seed_gives_the_same_text(trained, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [generated(trained, capsys, "--prompt", "the", "--temperature", "1", "--seed", s) for s in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_greedy_equals_temperature_zero_for_any_seed(trained, capsys: pytest.CaptureFixture[str]) -> None:
    ways = (["--greedy"], ["--greedy", "--seed", "9"], ["--temperature", "0"], ["--top-k", "1", "--temperature", "1"])
    texts = {generated(trained, capsys, "--prompt", "the", "--tokens", "40", *way) for way in ways}
    assert len(texts) == 1


def test_text_can_be_longer_than_the_context(trained, capsys: pytest.CaptureFixture[str]) -> None:
    text = generated(trained, capsys, "--prompt", "the quick brown fox jumps over", "--tokens", "100", "--top-k", "3")
    assert len(text) > len("the quick brown fox jumps over") + 3 * 16


def test_text_slides_past_the_context(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--prompt", "the quick", "--tokens", "40", "--greedy", "--dtype", "float32")
    loaded = open_run("bird", trained.runs).load()
    ids = [int(i) for i in loaded.tokenizer.encode("the quick")]
    with torch.no_grad():
        for _ in range(40):
            ids.append(int(loaded.model(torch.tensor([ids[-loaded.model.config.context :]]))[0, -1].argmax()))
    assert generated(trained, capsys, *words, "--past-context", "slide") == f"{loaded.tokenizer.decode(ids)}\n"


def test_text_begins_with_a_special_token_and_goes_on_after_the_end(
    trained: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--prompt", "", "--tokens", "300", "--temperature", "2", "--json")
    empty, begun = (
        json.loads(generated(trained, capsys, *words, *more)) for more in ((), ("--begin-with", "<|endoftext|>"))
    )
    assert begun["text"] == empty["text"]  # an empty prompt begins as a document does
    assert (empty["finish_reason"], empty["tokens"] < 300) == ("stop", True)
    further = json.loads(generated(trained, capsys, *words, "--ignore-end-of-text"))
    assert (further["finish_reason"], further["tokens"]) == ("length", 300)
    assert further["text"].startswith(empty["text"])
    the = ("--prompt", "the", "--tokens", "0", "--logprobs", "0")
    assert generated(trained, capsys, *the, "--begin-with", "<|endoftext|>") == "the\n"
    assert trained.do("generate", "bird", "--begin-with", "<|startoftext|>") == 2
    assert "hint: it has <|endoftext|>" in capsys.readouterr().err


def test_prompt_after_a_special_token_is_read_after_it(trained: Home) -> None:
    loaded = open_run("bird", trained.runs).load()
    text = next(generate(loaded, ["the"], tokens=1, begin_with="<|endoftext|>", logprobs=0, dtype="float32").texts())
    ids = [loaded.tokenizer.end_of_text, *map(int, loaded.tokenizer.encode("the"))]
    with torch.no_grad():
        expected = loaded.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
    assert text.logprobs is not None
    (found,) = text.logprobs
    assert found.logprob == pytest.approx(float(expected[found.token]), abs=1e-4)


@pytest.mark.parametrize("prompt", [[], ["--prompt", ""]])
def test_prompt_may_be_missing_or_empty(trained, capsys: pytest.CaptureFixture[str], prompt: list[str]) -> None:
    assert len(generated(trained, capsys, *prompt, "--tokens", "30")) > 5


def test_prompt_longer_than_the_context_is_pointed_out(trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("generate", "bird", "--prompt", "the " * 500, "--tokens", "1") == 0
    assert "tokens, and the context of the model holds" in capsys.readouterr().err


def test_prompt_may_come_from_stdin(
    trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("the lazy"))
    assert generated(trained, capsys, "--prompt", "-", "--tokens", "5").startswith("the lazy")


def test_unknown_character_in_the_prompt_is_named(trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("generate", "bird", "--prompt", "the Ω") == 2
    captured = capsys.readouterr()
    assert "'Ω' (U+03A9) at position 4" in captured.err
    assert "hint: " in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "words",
    [
        ("--tokens", "-1"),
        ("--tokens", "1000000000000000000"),
        ("--n", "0"),
        ("--past-context", "grow"),
        ("--n", "1000000000"),
        ("--min-p", "2"),
        ("--repetition-penalty", "0"),
        ("--presence-penalty", "nan"),
        ("--frequency-penalty", "inf"),
        ("--logprobs", "-1"),
        ("--logprobs", "1000000000000"),
        ("--stop", ""),
        ("--dtype", "float8"),
        ("--prompts", "no-such-file"),
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--top-k", "0"),
        ("--top-p", "1.5"),
        ("--seed", "-1"),
        ("--seed", "99999999999999999999999"),
        ("--device", "abacus"),
    ],
)
def test_invalid_options_are_refused(trained, capsys: pytest.CaptureFixture[str], words: tuple[str, str]) -> None:
    assert trained.do("generate", "bird", "--tokens", "3", *words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.out == ""


def test_json_is_one_document_with_the_text(trained, capsys: pytest.CaptureFixture[str]) -> None:
    plain = generated(trained, capsys, "--prompt", "the", "--tokens", "20")
    answer = json.loads(generated(trained, capsys, "--prompt", "the", "--tokens", "20", "--json"))
    assert answer["prompt"] + answer["text"] + "\n" == plain
    assert (answer["run"], answer["step"]) == ("bird", 40)


def test_each_piece_is_printed_as_it_is_generated(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(io.StringIO):
        flushed: list[int] = []  # noqa: RUF012

        def flush(self) -> None:
            self.flushed.append(len(self.getvalue()))

    out = Watched()
    monkeypatch.setattr(sys, "stdout", out)
    assert trained.do("generate", "bird", "--prompt", "the", "--tokens", "20", "--top-k", "5") == 0
    assert len(set(out.flushed)) > 10


JSON_KEYS = ["run", "step", "path", "dtype", "prompt", "text", "finish_reason", "tokens", "seed", "tokens_per_second"]


def answers(home: Home, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(generated(home, capsys, "--tokens", "20", "--json", *words))


def records(home: Home, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in generated(home, capsys, "--tokens", "20", "--jsonl", *words).splitlines()]


def test_json_has_length_reason_and_speed(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answers(trained, capsys, "--prompt", "the", "--dtype", "float32")
    assert list(answer) == JSON_KEYS
    assert (answer["tokens"], answer["finish_reason"], answer["dtype"]) == (20, "length", "float32")
    assert answer["tokens_per_second"] > 0
    assert "float32" in answer["path"]


def test_no_tokens_have_no_speed(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answers(trained, capsys, "--prompt", "the", "--tokens", "0")
    assert (answer["text"], answer["tokens"], answer["tokens_per_second"]) == ("", 0, None)


def test_text_ends_before_a_stop_string(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    whole = answers(trained, capsys, "--prompt", "the", "--tokens", "200")["text"]
    short = answers(trained, capsys, "--prompt", "the", "--tokens", "200", "--stop", "\\n", "--stop", "zzz")
    assert "\n" in whole
    assert (short["text"], short["finish_reason"]) == (whole.partition("\n")[0], "stop")


def test_samples_have_seeds_of_their_own(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    many = answers(trained, capsys, "--prompt", "the", "--n", "3", "--seed", "5", "--temperature", "1")
    assert list(many) == ["run", "step", "path", "dtype", "texts", "tokens", "tokens_per_second"]
    assert many["tokens"] == sum(text["tokens"] for text in many["texts"])
    for text, seed in zip(many["texts"], (5, 6, 7), strict=True):
        alone = answers(trained, capsys, "--prompt", "the", "--seed", str(seed), "--temperature", "1")
        assert text == {key: alone[key] for key in text}
    assert len({text["text"] for text in many["texts"]}) == 3


def test_file_of_prompts_gives_each_the_text_that_it_has_alone(
    trained: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["the", "a lazy dog", "fox", "until", "over a"]
    (tmp_path / "p.txt").write_text("\n\n".join(prompts))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": prompt, "id": 1}) + "\n" for prompt in prompts))
    found = records(trained, capsys, "--prompts", str(tmp_path / "p.txt"))
    again = records(trained, capsys, "--prompts", str(tmp_path / "p.jsonl"))
    for record in (*found, *again):
        assert "thread" in record.pop("path")  # how many is measured each time
    assert [record["prompt"] for record in found] == prompts
    assert found == again
    for record in found:
        alone = answers(trained, capsys, "--prompt", record["prompt"])
        assert record == {key: alone[key] for key in record}


def test_several_texts_have_headings(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    text = generated(trained, capsys, "--prompt", "the fox", "--n", "2", "--tokens", "5")
    assert re.fullmatch(r"--- 1 of 2 ---\nthe fox.+\n--- 2 of 2 ---\nthe fox.+\n", text, re.DOTALL)


def test_logprobs_are_those_of_the_model(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answers(trained, capsys, "--prompt", "the q", "--logprobs", "3", "--greedy", "--dtype", "float32")
    first = answer["logprobs"][0]
    loaded = open_run("bird@best", trained.runs).load()
    ids = torch.from_numpy(loaded.tokenizer.encode("the q").astype("int64"))
    with torch.no_grad():
        expected = loaded.model(ids[None])[0, -1].log_softmax(-1)
    assert first["logprob"] == pytest.approx(float(expected.max()), abs=1e-4)
    assert first["id"] == first["top"][0]["id"] == int(expected.argmax())
    assert [other["id"] for other in first["top"]] == expected.topk(3).indices.tolist()
    assert "".join(each["token"] for each in answer["logprobs"]) == answer["text"]
    table = generated(trained, capsys, "--prompt", "the q", "--logprobs", "3", "--greedy", "--tokens", "4")
    assert len(table.split("alternatives\n")[1].splitlines()) == 4


def test_verbose_says_the_path_and_the_speed(trained: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("generate", "bird", "--tokens", "5", "--verbose", "--dtype", "float32") == 0
    said = capsys.readouterr().err
    assert re.search(r"measured path: .*float32.*tokens/s.*% of the memory bandwidth", said)
    assert re.search(r"5 tokens in [\d.]+ s: [\d.,]+ tokens/s", said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no prompts"),
        (b" \n\n", "holds no prompts"),
        (b'{"prompt": "the"}\n\n{"prompt": 5}\n', "line 3 of"),
        (b'{"prompt": "the"}\nthe\n', "line 2 of"),
        (b'{"prompt": "the"}\n["the"]\n', "line 2 of"),
        (b'{"prompt": "the"}\n' + b"[" * 100_000, "line 2 of"),
        (b"the \xff", "not UTF-8"),
        (b'{"prompt": "the \\ud800"}', "not valid Unicode"),
        ("the Ω".encode(), "error: the character 'Ω'"),
        ("the\nfox Ω".encode(), "error: prompt 2: the character 'Ω'"),
    ],
)
def test_invalid_file_of_prompts_is_refused(
    trained: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    assert trained.do("generate", "bird", "--prompts", str(tmp_path / "p.txt")) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("--prompt", "the", "--prompts", "p.txt"),
        ("--json", "--jsonl"),
        ("--prompts", "p.txt", "--n", "60000"),
        ("--greedy", "--temperature", "1"),
    ],
)
def test_options_that_exclude_each_other_are_refused(
    trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("the\nfox\n")
    assert trained.do("generate", "bird", *words) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_checkpoint_can_be_chosen(trained, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for which in ("20", "40", "latest", "best"):
        assert trained.do("generate", f"bird@{which}", "--prompt", "the", "--tokens", "60", "--json") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert [answer["step"] for answer in answers] == [20, 40, 40, 40]
    assert answers[0]["text"] != answers[1]["text"] == answers[2]["text"]


def test_misspelt_run_suggests_the_nearest(trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained.do("generate", "brid") == 2
    assert "bird" in capsys.readouterr().err


def test_damaged_checkpoint_falls_back_with_a_warning(own, capsys: pytest.CaptureFixture[str]) -> None:
    (own.runs / "bird" / "checkpoints" / "step-00000040" / "model.safetensors").write_bytes(b"")
    assert own.do("generate", "bird", "--tokens", "3", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["step"] == 20
    assert "step-00000040" in captured.err


def test_recipe_gives_an_iterator_and_prints_nothing(trained, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    result = generate("bird@20", ["the"], runs=trained.runs, tokens=8)
    assert (result.run, result.step, result.prompts) == ("bird", 20, ["the"])
    text = "".join(chunk.text for _, chunk in result.chunks())
    assert (result.tokens, result.seconds > 0) == (8, True)
    assert capsys.readouterr() == ("", "")
    assert trained.do("generate", "bird@20", "--prompt", "the", "--tokens", "8") == 0
    assert capsys.readouterr().out == f"the{text}\n"


@pytest.mark.parametrize(
    ("kind", "prompt", "said"), [("bpe", "the ", True), ("bpe", "the", False), ("char", "the ", False)]
)
def test_space_at_the_end_of_a_prompt_is_pointed_out(
    home: Home, capsys: pytest.CaptureFixture[str], kind: str, prompt: str, said: bool
) -> None:
    home.train("bird", "--train.steps", "1", "--tokenizer.kind", kind)
    capsys.readouterr()
    assert home.do("generate", "bird", "--prompt", prompt, "--tokens", "2") == 0
    assert ("hint: the prompt ends in a space" in capsys.readouterr().err) == said
