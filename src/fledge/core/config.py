"""Settings: layers of plain dictionaries, merged into frozen dataclasses.

    defaults  <  preset  <  file  <  --section.key value

A config dataclass stands beside the code that reads it and validates itself in `__post_init__`. This module merges
layers, casts values to their types, refuses unknown keys with the nearest known one, and reads and writes TOML.
"""

import contextlib
import dataclasses
import json
import tomllib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fledge.core.errors import UserError, nearest
from fledge.core.files import nearest_file

Layer = Mapping[str, Mapping[str, Any]]  # section → key → value
T = TypeVar("T")
MAX_COUNT = 2**31
LITERALS = {"true": True, "false": False, "null": None}


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and one line that says what it does."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_counts(config: Any, section: str, names: Iterable[str]) -> None:
    """Refuse counts that are not whole numbers from 1 to MAX_COUNT."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 1 <= value <= MAX_COUNT:
            raise UserError(f"{section}.{name} cannot be {value}", "it must be a whole number of at least 1")


def divisors(number: int, at_most: int | None = None) -> list[int]:
    """The divisors of `number`, up to `at_most`."""
    return [n for n in range(1, min(number, number if at_most is None else at_most) + 1) if number % n == 0]


def listed_divisors(number: int) -> str:
    """The divisors as text for a hint; of a very large number only the small ones."""
    return ", ".join(map(str, divisors(number, at_most=4096)))


def read_toml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: '{path}'", nearest_file(path) or "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' is not valid TOML: {error}", "fix that line; see https://toml.io") from None
    for section, keys in content.items():
        if not isinstance(keys, dict):
            raise UserError(f"'{path}': '{section}' is outside of any section", "put it under [model], [train], …")
    return content


def read_overrides(words: list[str]) -> dict[str, dict[str, Any]]:
    """`--train.steps 200 --optim.lr=3e-4` → a layer. Values stay text; `build` gives them their type."""
    layer: dict[str, dict[str, Any]] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        section, dot, key = name.partition(".")
        if not word.startswith("--") or not dot:
            raise UserError(f"unknown argument '{word}'", "settings are written --section.key value; see --help")
        if not equals:
            if not queue or queue[0].startswith("--"):
                raise UserError(f"'{word}' has no value", f"write {word} VALUE")
            value = queue.pop(0)
        layer.setdefault(section, {})[key] = value
    return layer


def merge(*layers: Layer) -> dict[str, dict[str, Any]]:
    """Later layers win, key by key."""
    result: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, keys in layer.items():
            result.setdefault(section, {}).update(keys)
    return result


def build(kind: type[T], layer: Layer) -> T:
    """A layer → an instance of `kind`, a frozen dataclass whose fields are section dataclasses."""
    sections: dict[str, Any] = get_type_hints(kind)
    refuse_unknown(kind, layer)
    return kind(**{name: build_section(name, cls, layer.get(name, {})) for name, cls in sections.items()})


def refuse_unknown(kind: type[Any], layer: Layer, also: Iterable[str] = ()) -> None:
    """Refuse unknown settings and name the nearest known one. `also`: names that a later stage handles."""
    sections: dict[str, Any] = get_type_hints(kind)
    every = [f"{s}.{f.name}" for s, cls in sections.items() for f in dataclasses.fields(cls)] + [*also]
    for section, keys in layer.items():
        if section not in sections and not keys:
            raise UserError(f"unknown section '{section}'", nearest(section, sections) or "see 'fledge train --help'")
        for key in keys:
            name = f"{section}.{key}"
            if name in every:
                continue
            same = [known for known in every if known.endswith(f".{key}")]  # the right key in the wrong section
            near = nearest(name, same) or (f"did you mean '{same[0]}'?" if same else nearest(name, every))
            raise UserError(
                f"unknown setting '{name}'", near or "'fledge train demo --print-config' shows every setting"
            )


def build_section(section: str, cls: type[T], values: Mapping[str, Any]) -> T:
    """One section of a layer → its dataclass."""
    types = get_type_hints(cls)
    return cls(**{key: cast(f"{section}.{key}", types[key], value) for key, value in values.items()})


def cast(name: str, kind: Any, value: Any) -> Any:
    """Convert `value` to the type of its setting: `"3e-4"` from the command line becomes a number."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if isinstance(value, str) and value.startswith("["):  # rather a list than a text that looks like one
        options = (*filter(is_tuple, options), *options)
    for option in options:
        with contextlib.suppress(ValueError, TypeError):
            return _cast(option, value)
    raise UserError(f"{name} cannot be {value!r}", f"it takes {_words(kind)}")


def _cast(kind: Any, value: Any) -> Any:
    """Convert, or raise ValueError or TypeError."""
    if get_origin(kind) is Literal:
        return get_args(kind)[get_args(kind).index(value)]
    if is_tuple(kind):
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:  # any number of them; on the command line: a,b or ["a", "b"]
            items = value if isinstance(value, list | tuple) else listed_items(value)
            return tuple(_cast(kinds[0], item) for item in items)
        items = json.loads(value) if isinstance(value, str) else value
        return tuple(_cast(each, item) for each, item in zip(kinds, items, strict=True))
    if kind in (bool, NoneType) and isinstance(value, str):
        value = LITERALS.get(value, value)
    if kind is float and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, str):
        return int(value)
    if type(value) is kind:
        return value
    raise ValueError


def is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def listed_items(text: str) -> list[Any]:
    """`a,b` or `["a", "b"]` → its items."""
    found = json.loads(text) if text.startswith("[") else [item for item in text.split(",") if item]
    if not isinstance(found, list):
        raise ValueError
    return found


def _words(kind: Any) -> str:
    """A type in plain words, for an error message."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "nothing"}
    if kind in plain:
        return plain[kind]
    arguments: tuple[Any, ...] = getattr(kind, "__args__", ())
    if Ellipsis in arguments:
        names = get_args(arguments[0])
        plain_names = "numbers" if float in arguments else "names"
        return f"{', '.join(names) if names else plain_names}, with commas between them"
    if getattr(kind, "__origin__", None) is tuple:
        return "a list such as [" + ", ".join("0.9" for _ in arguments) + "]"
    return " or ".join(a if isinstance(a, str) else _words(a) for a in arguments) or str(kind)


def to_layer(config: Any, *, omit: Container[str] = ()) -> dict[str, dict[str, Any]]:
    """A config → a layer. Unset values (None) are left out, as TOML has no null; `omit`: further names."""
    return {
        section: {key: value for key, value in keys.items() if value is not None and f"{section}.{key}" not in omit}
        for section, keys in dataclasses.asdict(config).items()
    }


def to_toml(config: Any, *, explain: bool = False, omit: Container[str] = ()) -> str:
    """The config as TOML, from which `build` makes an equal one. `explain` adds the help of each setting.

    omit: names of settings to leave out, such as "data.val".
    """
    lines: list[str] = []
    for section, cls in get_type_hints(type(config)).items():
        fields = [field for field in dataclasses.fields(cls) if f"{section}.{field.name}" not in omit]
        lines += [f"[{section}]"] * bool(fields)
        for field in fields:
            value = getattr(getattr(config, section), field.name)
            line = f"{field.name} = {_toml_value(value)}" if value is not None else f"# {field.name} ="
            note = f"  # {field.metadata['help']}" if explain else ""
            if value is not None or explain:
                lines.append(f"{line:<28}{note}".rstrip())
        lines += [""] * bool(fields)
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    assert isinstance(value, tuple), value
    return "[" + ", ".join(_toml_value(v) for v in value) + "]"
