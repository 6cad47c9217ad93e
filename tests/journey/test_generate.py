"""fledge generate: the text, its options and its errors."""

import io
import json
import sys

import pytest

from fledge.recipes.generate import generate_text

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


@pytest.mark.parametrize("prompt", [[], ["--prompt", ""]])
def test_prompt_may_be_missing_or_empty(trained, capsys: pytest.CaptureFixture[str], prompt: list[str]) -> None:
    assert len(generated(trained, capsys, *prompt, "--tokens", "30")) > 5


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
    result = generate_text("bird@20", "the", runs=trained.runs, tokens=8)
    assert (result.run, result.step, result.prompt) == ("bird", 20, "the")
    first = next(result.pieces)
    text = first + "".join(result.pieces)
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
