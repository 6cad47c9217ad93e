"""Stop strings: found wherever tokens end, and nothing of them is ever shown."""

from hypothesis import given
from hypothesis import strategies as st

from fledge.inference.stop import StopStrings, TextStream
from fledge.tokenizers.bpe import BpeTokenizer

LETTERS = st.text("abc", min_size=1, max_size=5)


def shown(pieces: list[str], stop: tuple[str, ...]) -> tuple[list[str], bool]:
    strings = StopStrings(stop)
    parts = [strings.add(piece) for piece in pieces]
    return [*parts, strings.end()], strings.found


def first_stop(text: str, stop: tuple[str, ...]) -> str | None:
    """The text before the stop string that is complete first, letter by letter; None where there is none."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))]
    return None


@given(pieces=st.lists(st.text("abc", max_size=4), max_size=12), stop=st.lists(LETTERS, max_size=3).map(tuple))
def test_result_does_not_depend_on_where_the_text_is_cut(pieces: list[str], stop: tuple[str, ...]) -> None:
    parts, found = shown(pieces, stop)
    expected = first_stop("".join(pieces), stop)
    assert found == (expected is not None)
    assert "".join(parts) == ("".join(pieces) if expected is None else expected)


@given(text=st.text("abc", max_size=20), stop=st.lists(LETTERS, min_size=1, max_size=3).map(tuple))
def test_text_is_held_back_only_while_it_may_belong_to_a_stop_string(text: str, stop: tuple[str, ...]) -> None:
    strings, seen = StopStrings(stop), ""
    for i, letter in enumerate(text):
        seen += strings.add(letter)
        held = text[len(seen) : i + 1]
        if strings.found:
            return
        assert not held or any(s.startswith(held) for s in stop)


def test_characters_that_end_in_the_middle_of_a_token() -> None:
    tokenizer = BpeTokenizer([bytes([i]) for i in range(256)], [])
    text = TextStream(tokenizer, stop=("€!",))
    parts = [text.add(token) for token in tokenizer.encode("a€b€!c").tolist()]
    assert [part for part in parts if part] == ["a", "€b"]
    assert text.stopped
    assert text.end() == ""


def test_unfinished_character_at_the_end() -> None:
    tokenizer = BpeTokenizer([bytes([i]) for i in range(256)], [])
    text = TextStream(tokenizer, stop=())
    parts = [text.add(token) for token in tokenizer.encode("a€").tolist()[:-1]]
    assert ["".join(parts), text.end()] == ["a", "�"]
