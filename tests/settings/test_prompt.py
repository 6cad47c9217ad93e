"""The prompt of the samples is taken from the text, and what belongs to the text of a preset stays with that text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.datasets.cache import ensure_dataset
from fledge.datasets.config import DataConfig
from fledge.datasets.shards import Dataset
from fledge.settings.pipeline import resolve
from fledge.settings.prompt import MAX_CHARS, cut_at_space, sample_prompt
from fledge.tokenizers.config import TokenizerConfig

CHAR, BPE = TokenizerConfig(kind="char"), TokenizerConfig(kind="bpe", vocab_size=300)
LINES = [f"Line {number} of the poem has rather more than forty characters." for number in range(200)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def dataset(text: str, tokenizer: TokenizerConfig = CHAR, **data: float) -> Dataset:
    Path("text.txt").write_text(text, encoding="utf-8")
    return ensure_dataset(DataConfig(corpus="text.txt", **data), tokenizer)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokenizer", [CHAR, BPE], ids=["char", "bpe"])
def test_prompt_is_the_start_of_a_held_out_line(tokenizer: TokenizerConfig) -> None:
    made = dataset("\n".join(LINES), tokenizer)
    prompt = sample_prompt(None, made)
    assert prompt
    assert prompt == sample_prompt(None, made)
    assert [line for line in LINES[150:] if line.startswith(prompt + " ")]


def test_prompt_is_of_whole_held_out_documents() -> None:
    for number in range(120):
        (Path("notes") / f"{number}.txt").parent.mkdir(exist_ok=True)
        (Path("notes") / f"{number}.txt").write_text(f"\n---\n  Note {number}  \nand its text")
    made = ensure_dataset(DataConfig(corpus="notes"), CHAR)
    prompt = sample_prompt(None, made)
    ids = made.split("val").read(0, 20).tolist()
    assert prompt == made.tokenizer.decode(ids).split("\n")[2].strip()


def test_prompt_is_of_the_training_text_where_nothing_is_held_out() -> None:
    assert sample_prompt(None, dataset("\n12 34\nthe sun\nrose", val=0)) == "the sun"


def test_text_without_words_gives_no_prompt() -> None:
    assert sample_prompt(None, dataset("1 2 3 4 5\n" * 100)) is None


def test_given_prompt_is_kept_or_refused() -> None:
    made = dataset("\n".join(LINES))
    assert sample_prompt("Line", made) == "Line"
    assert sample_prompt("", made) == ""
    with pytest.raises(UserError, match=r"track\.prompt '日'"):
        sample_prompt("日", made)


@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1, max_size=90).map(str.strip))
def test_cut_keeps_whole_words_up_to_the_limit(line: str) -> None:
    cut = cut_at_space(line)
    assert line.startswith(cut)
    assert len(cut) <= MAX_CHARS
    assert cut == cut.rstrip()
    assert bool(cut) == bool(line)
    if " " in line[: MAX_CHARS + 1] and cut != line:
        assert line[len(cut)] == " "


@pytest.mark.parametrize("other", [{"corpus": "mine.txt"}, {"path": "data/mine"}, {"corpus": ["a.txt", "b.txt"]}])
def test_other_text_drops_what_belongs_to_the_text_of_the_preset(other: dict[str, object]) -> None:
    found = resolve("scratch-char", {"data": other})
    assert (found.track.prompt, found.data.val, found.data.split_by) == (None, DataConfig().val, "auto")
    assert found.data.stride == 1  # how it trains, not which text
    assert found.tokenizer.kind == "char"


def test_settings_given_beside_the_other_text_are_kept() -> None:
    found = resolve("demo", {"data": {"corpus": "mine.txt", "val": 0.2}, "track": {"prompt": "the"}})
    assert (found.data.val, found.track.prompt) == (0.2, "the")


def test_file_without_a_text_keeps_its_data_settings(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[data]\nval = 0.3\nfield = "body"\n[track]\nprompt = "a"\n')
    found = resolve("mine.toml", {"data": {"corpus": "mine.txt"}})
    assert (found.data.val, found.data.field, found.track.prompt) == (0.3, "body", "a")


def test_several_sources_make_one_dataset() -> None:
    Path("a.txt").write_text("the sun rose\n" * 20)
    Path("b.txt").write_text("the moon set\n" * 20)
    data = resolve("demo", {"data": {"corpus": ["a.txt", "b.txt"]}}).data
    assert data.sources == ("a.txt", "b.txt")
    both = ensure_dataset(data, CHAR)
    assert sum(len(split) for split in both.splits.values()) >= 2 * 20 * 13
    with pytest.raises(UserError, match=r"data\.corpus cannot be empty"):
        resolve("demo", {"data": {"corpus": []}})
