"""Settings: layers, overrides, types, names, and TOML there and back."""

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fledge.core.config import build, cast, merge, read_overrides, read_toml, setting, to_layer, to_toml
from fledge.core.errors import UserError


@dataclass(frozen=True)
class House:
    rooms: int = setting(3, "how many")
    height: float = setting(2.5, "metres")
    lit: bool = setting(False, "whether somebody is in")
    owner: str | None = setting(None, "who")
    floor: int | None = setting(None, "which")
    colour: Literal["red", "white"] = setting("white", "outside")
    sides: tuple[float, float] = setting((1.0, 2.0), "two of them")


@dataclass(frozen=True)
class Garden:
    trees: int = setting(1, "how many")
    name: str = setting("Eden", "what it is called")


@dataclass(frozen=True)
class Place:
    house: House
    garden: Garden


finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=12) | st.sampled_from(["null", "~", "true", "5", "1e3", "&a", "[", "a: b", "'", '"', "\x7f"])
houses = st.builds(
    House,
    rooms=st.integers(-(10**12), 10**12),
    height=finite,
    lit=st.booleans(),
    owner=st.none() | words,
    floor=st.none() | st.integers(-100, 100),
    colour=st.sampled_from(["red", "white"]),
    sides=st.tuples(finite, finite),
)


def refusal(layer: dict[str, dict[str, Any]]) -> UserError:
    with pytest.raises(UserError) as caught:
        build(Place, layer)
    return caught.value


def test_empty_layer_gives_defaults() -> None:
    assert build(Place, {}) == Place(House(), Garden())


def test_later_layers_win_key_by_key() -> None:
    layers = {"house": {"rooms": 1, "lit": True}}, {"house": {"rooms": 2}}, {"garden": {"trees": 9}}
    assert merge(*layers) == {"house": {"rooms": 2, "lit": True}, "garden": {"trees": 9}}


def test_merge_does_not_change_its_arguments() -> None:
    under = {"house": {"rooms": 1}}
    merge(under, {"house": {"rooms": 2}})
    assert under == {"house": {"rooms": 1}}


def test_defaults_below_file_below_override(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[house]\nrooms = 7\nheight = 3.5\n")
    place = build(Place, merge(read_toml(file), read_overrides(["--house.rooms", "9"])))
    assert (place.house.rooms, place.house.height, place.house.colour) == (9, 3.5, "white")


@pytest.mark.parametrize(
    ("argv", "layer"),
    [
        ([], {}),
        (["--house.rooms", "4"], {"house": {"rooms": "4"}}),
        (["--house.rooms=4"], {"house": {"rooms": "4"}}),
        (["--house.owner=a=b"], {"house": {"owner": "a=b"}}),
        (["--house.owner="], {"house": {"owner": ""}}),
        (["--house.owner=--x"], {"house": {"owner": "--x"}}),
        (["--house.floor", "-3"], {"house": {"floor": "-3"}}),
        (["--house.rooms", "4", "--house.rooms", "5"], {"house": {"rooms": "5"}}),
        (["--house.rooms", "4", "--garden.trees=2"], {"house": {"rooms": "4"}, "garden": {"trees": "2"}}),
    ],
)
def test_override_with_space_or_equals_sign(argv: list[str], layer: dict[str, dict[str, str]]) -> None:
    assert read_overrides(argv) == layer


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--house.rooms"], "--house.rooms"),
        (["--house.rooms", "--garden.trees", "2"], "--house.rooms"),
        (["house.rooms", "3"], "house.rooms"),
        (["--rooms", "3"], "--rooms"),
        (["stray"], "stray"),
        (["--house.rooms", "3", "4"], "4"),
    ],
)
def test_invalid_override_is_named(argv: list[str], named: str) -> None:
    with pytest.raises(UserError) as caught:
        read_overrides(argv)
    assert f"'{named}'" in caught.value.message


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("rooms", "12", 12),
        ("height", "3", 3.0),
        ("height", "3e-4", 3e-4),
        ("lit", "true", True),
        ("lit", "false", False),
        ("owner", "12", "12"),
        ("owner", "true", "true"),
        ("owner", "a: b", "a: b"),
        ("owner", "", ""),
        ("owner", "line\n", "line\n"),
        ("floor", "-2", -2),
        ("colour", "red", "red"),
        ("sides", "[3, 4.5]", (3.0, 4.5)),
    ],
)
def test_override_is_cast_to_the_type_of_its_key(key: str, text: str, value: Any) -> None:
    found = getattr(build(Place, {"house": {key: text}}).house, key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "takes"),
    [
        ("rooms", "many", "a whole number"),
        ("rooms", 2.5, "a whole number"),
        ("rooms", True, "a whole number"),
        ("rooms", "1:30", "a whole number"),
        ("height", "tall", "a number"),
        ("height", True, "a number"),
        ("height", None, "a number"),
        ("lit", 1, "true or false"),
        ("lit", "maybe", "true or false"),
        ("owner", 5, "text or nothing"),
        ("floor", "x", "a whole number or nothing"),
        ("colour", "blue", "red or white"),
        ("sides", [1.0], "a list such as"),
        ("sides", "1", "a list such as"),
    ],
)
def test_wrong_type_is_refused_with_the_right_one(key: str, value: Any, takes: str) -> None:
    error = refusal({"house": {key: value}})
    assert f"house.{key}" in error.message
    assert takes in error.hint


@pytest.mark.parametrize(
    ("section", "key", "near"),
    [
        ("house", "room", "house.rooms"),
        ("hous", "rooms", "house.rooms"),
        ("house", "color", "house.colour"),
        ("garden", "rooms", "house.rooms"),
        ("house", "trees", "garden.trees"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest(section: str, key: str, near: str) -> None:
    error = refusal({section: {key: 1}})
    assert f"'{section}.{key}'" in error.message
    assert f"'{near}'" in error.hint


def test_unknown_key_always_has_a_hint() -> None:
    assert refusal({"q": {"zzz": 1}}).hint


def test_empty_unknown_section_is_refused() -> None:
    assert "'hause'" in refusal({"hause": {}}).message


@settings(deadline=None, max_examples=150)
@given(houses, st.builds(Garden, trees=st.integers(0, 9), name=words), st.booleans())
def test_toml_round_trip(house: House, garden: Garden, explain: bool) -> None:
    place = Place(house, garden)
    assert build(Place, tomllib.loads(to_toml(place, explain=explain))) == place


@settings(deadline=None)
@given(houses)
def test_layer_round_trip(house: House) -> None:
    assume(house.owner is not None and house.floor is not None)
    assert build(Place, to_layer(Place(house, Garden()))) == Place(house, Garden())


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e-300, 0.1 + 0.2])
def test_toml_keeps_every_digit(value: float) -> None:
    place = Place(House(height=value), Garden())
    assert build(Place, tomllib.loads(to_toml(place))).house.height == value


def test_explained_toml_has_all_help() -> None:
    text = to_toml(Place(House(), Garden()), explain=True)
    for field in (*fields(House), *fields(Garden)):
        assert field.name in text
        assert f"# {field.metadata['help']}" in text


@pytest.mark.parametrize("content", [b"[house\n", b"rooms = = 3\n", b"[house]\nrooms = 1\nrooms = 2\n", b"\xff\xfe"])
def test_invalid_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.toml"):
        read_toml(file)


def test_key_outside_sections_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "flat.toml"
    file.write_text("rooms = 3\n")
    with pytest.raises(UserError, match="'rooms' is outside of any section"):
        read_toml(file)


def test_missing_toml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.toml"):
        read_toml(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a.txt", "a.txt"),
        ("a,b", "a,b"),
        ('["a", "b,c"]', ("a", "b,c")),
        (["a", "b"], ("a", "b")),
        ("[a-z]*.txt", "[a-z]*.txt"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_text_or_list_of_texts(value: object, found: object) -> None:
    assert cast("data.corpus", str | tuple[str, ...] | None, value) == found


def test_list_of_numbers() -> None:
    assert cast("data.shares", tuple[float, ...] | None, "0.7,0.3") == (0.7, 0.3)
    assert cast("data.shares", tuple[float, ...] | None, "[0.7, 0.3]") == (0.7, 0.3)
    for wrong in ("a,b", '{"a": 1}', "[[1]]", "[0.7"):
        with pytest.raises(UserError, match=r"data\.shares cannot be") as caught:
            cast("data.shares", tuple[float, ...] | None, wrong)
        assert "numbers, with commas" in caught.value.hint
