"""What the words of `fledge train` name: presets, settings files, text, datasets; what is refused, with which hint."""

from pathlib import Path
from typing import Any

import pytest

from fledge.core.errors import UserError
from fledge.datasets.cache import build_local
from fledge.datasets.config import DataConfig
from fledge.datasets.spec import build_spec
from fledge.settings.pipeline import resolve
from fledge.settings.words import choose
from fledge.tokenizers.config import TokenizerConfig


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with some text, a folder that is called as a preset is, and a settings file."""
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("mybook.txt", "notes/a.txt", "notes/b.txt", "demo/a.txt", "text/a.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("the sun rose\n" * 50)
    Path("mine.toml").write_text('[about]\npreset = "demo"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("words", "preset", "data", "name"),
    [
        (["modern"], "modern", {}, "modern"),
        (["mine.toml"], "mine.toml", {}, "mine"),
        (["mybook.txt"], None, {"corpus": "mybook.txt"}, "mybook"),
        (["notes/"], None, {"corpus": "notes/"}, "notes"),
        (["notes/*.txt"], None, {"corpus": "notes/*.txt"}, "notes"),
        (["*.txt"], None, {"corpus": "*.txt"}, "run"),
        (["./demo"], None, {"corpus": "./demo"}, "demo"),
        (["demo"], "demo", {}, "demo"),
        (["text"], None, {"corpus": "text"}, "text"),
        (["mybook.txt:0.5"], None, {"corpus": "mybook.txt:0.5"}, "mybook"),
        (["shakespeare"], None, {"corpus": "shakespeare"}, "shakespeare"),
        (["wikipedia-en:0.1"], None, {"corpus": "wikipedia-en:0.1"}, "wikipedia-en"),
        (["https://x.org/book.txt"], None, {"corpus": "https://x.org/book.txt"}, "book"),
        (["hf://datasets/a/b"], None, {"corpus": "hf://datasets/a/b"}, "b"),
        (["mybook.txt", "notes"], None, {"corpus": ("mybook.txt", "notes")}, "mybook"),
        (["notes", "modern"], "modern", {"corpus": "notes"}, "modern"),
    ],
    ids=str,
)
def test_words_are_presets_and_text(words: list[str], preset: str | None, data: dict[str, Any], name: str) -> None:
    choice = choose(words, {"data": {"val": 0.2}})
    assert (choice.preset, choice.run_name) == (preset, name)
    assert choice.overrides == {"data": {"val": 0.2, **data}}
    assert choice.is_text_alone == (preset is None)


def test_folder_named_as_a_preset_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    choose(["demo"])
    assert capsys.readouterr().err == "'demo' is taken as the preset; the text of that name is ./demo\n"


def test_current_folder_names_the_run() -> None:
    assert choose(["."]).run_name == "here"


def test_prepared_dataset_is_trained_on_as_it_is() -> None:
    build_local(build_spec(["notes"], DataConfig(), TokenizerConfig(kind="char"), "made"))
    assert choose(["made"]).overrides == {"data": {"path": "made"}}
    with pytest.raises(UserError, match="'made' is a prepared dataset"):
        choose(["made", "mybook.txt"])


@pytest.mark.parametrize(
    ("words", "data", "message", "hint"),
    [
        (["mybok.txt"], {}, "no such file or folder: 'mybok.txt'", "did you mean 'mybook.txt'?"),
        (["notes/c.txt"], {}, "no such file or folder: 'notes/c.txt'", "did you mean 'notes/"),
        (["nots"], {}, "no preset, file or folder 'nots'", "did you mean 'notes'?"),
        (["modrn"], {}, "no preset, file or folder 'modrn'", "did you mean 'modern'?"),
        (["shakespear"], {}, "no preset, file or folder 'shakespear'", "did you mean 'shakespeare'?"),
        (["zzzz"], {}, "no preset, file or folder 'zzzz'", "a preset: fledge train demo"),
        (["modern", "gpt2"], {}, "more than one preset or settings file: modern, gpt2", "one of them"),
        (["notes"], {"corpus": "mybook.txt"}, "the text is given twice", "once"),
        (["notes"], {"path": "made"}, "the text is given twice", "once"),
    ],
)
def test_wrong_words_are_refused(words: list[str], data: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        choose(words, {"data": data})
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert len(caught.value.hint) < 120


def test_run_is_not_text() -> None:
    Path("runs/bird/checkpoints").mkdir(parents=True)
    Path("runs/bird/config.toml").write_text("")
    with pytest.raises(UserError, match="'runs/bird' is a run") as caught:
        choose(["runs/bird"])
    assert "fledge resume runs/bird" in caught.value.hint
    with pytest.raises(UserError, match="'bird' is a run") as caught:
        choose(["bird"])
    assert "fledge resume bird" in caught.value.hint


def test_misspelt_settings_file_suggests_the_name() -> None:
    with pytest.raises(UserError, match=r"no such file: 'min\.toml'") as caught:
        resolve("min.toml")
    assert caught.value.hint == "did you mean 'mine.toml'?"
