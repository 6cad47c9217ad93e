"""OpenAI's GPT-2 tokenizer, checked against tiktoken."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import fingerprint, load_tokenizer, save_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.gpt2 import TIKTOKEN_NAMES
from fledge.tokenizers.hf import HFTokenizer

tiktoken = pytest.importorskip("tiktoken")

SURROGATES = range(0xD800, 0xE000)
Encode = Callable[[str], list[int]]


@pytest.fixture(scope="module")
def ours(data: Path) -> HFTokenizer:
    return gpt2.load_gpt2([data / "gpt2"])


@pytest.fixture(scope="module")
def scratch(ours: HFTokenizer) -> BpeTokenizer:
    return BpeTokenizer.from_json(ours.to_json())


@pytest.fixture(scope="module")
def reference(data: Path) -> Encode:
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(str(data / "gpt2/vocab.bpe"), str(data / "gpt2/encoder.json"))
    encoding = tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256}
    )
    return encoding.encode_ordinary


@pytest.mark.parametrize("corpus", ["shakespeare", "wikitext", "python"])
def test_ids_of_real_text_equal_tiktoken(
    ours: HFTokenizer, reference: Encode, real_text: Callable[[str], str], corpus: str
) -> None:
    text = real_text(corpus)
    assert ours.encode(text).tolist() == reference(text)


@pytest.mark.parametrize("corpus", ["shakespeare", "wikitext"])
def test_ids_from_scratch_equal_tiktoken(
    scratch: BpeTokenizer, reference: Encode, real_text: Callable[[str], str], corpus: str
) -> None:
    text = real_text(corpus)
    assert scratch.encode(text).tolist() == reference(text)


def test_ids_of_every_character_equal_tiktoken(ours: HFTokenizer, reference: Encode) -> None:
    characters = [chr(code) for code in range(0x110000) if code not in SURROGATES]
    for start in range(0, len(characters), 4096):
        text = "".join(f"{c}a {c}1{c}\n" for c in characters[start : start + 4096])
        assert ours.encode(text).tolist() == reference(text), hex(start)


def test_ids_of_random_strings_equal_tiktoken(ours: HFTokenizer, scratch: BpeTokenizer, reference: Encode) -> None:
    for text in random_strings(4000):
        expected = reference(text)
        assert ours.encode(text).tolist() == expected
        assert scratch.encode(text).tolist() == expected


def random_strings(count: int) -> list[str]:
    """Random characters of all Unicode, of those that the pattern treats differently, and parts of English words."""
    rng = random.Random(1)
    pools = [
        [chr(code) for code in range(0x110000) if code not in SURROGATES],
        list("'sStTdmlLvVeEr \t\n\r\x0b\x1c\x85\xa0\u2003\u3000aé\u0301Я中🦆0١½_!<|>"),
        [" the", " a", "ing", "'ll", "\n\n", "  ", "12", "Duck", " —", "ed", "."],
    ]
    return ["".join(rng.choices(rng.choice(pools), k=rng.randint(0, 60))) for _ in range(count)]


@given(text=st.text())
def test_decode_inverts_encode(ours: HFTokenizer, text: str) -> None:
    assert ours.decode(ours.encode(text)) == text


def test_vocab_size_and_end_of_text(ours: HFTokenizer) -> None:
    assert (ours.vocab_size, ours.end_of_text) == (50257, 50256)
    assert 50256 not in ours.encode("a<|endoftext|>b")


def test_load_inverts_save(ours: HFTokenizer, tmp_path: Path) -> None:
    save_tokenizer(ours, tmp_path / "gpt2.json")
    back = load_tokenizer(tmp_path / "gpt2.json")
    assert fingerprint(back) == fingerprint(ours)
    assert back.encode("naïve ducks").tolist() == ours.encode("naïve ducks").tolist()


def test_files_are_found_in_tiktokens_cache(data: Path, tmp_path: Path) -> None:
    for name, cached in TIKTOKEN_NAMES.items():
        shutil.copy(data / "gpt2" / name, tmp_path / cached)
    assert gpt2.load_gpt2([tmp_path / "empty", tmp_path]).vocab_size == 50257


def test_missing_files_are_fetched_and_verified(data: Path, tmp_path: Path) -> None:
    requests = []

    def fetch(name: str, url: str, sha256: str) -> Path:
        requests.append((name, url.rpartition("/")[2], len(sha256)))
        return data / "gpt2" / name

    assert gpt2.load_gpt2([tmp_path], fetch).vocab_size == 50257
    assert requests == [("vocab.bpe", "vocab.bpe", 64), ("encoder.json", "encoder.json", 64)]
    with pytest.raises(UserError, match=r"is not GPT-2's vocab\.bpe"):
        gpt2.load_gpt2([tmp_path], lambda *_: data / "shakespeare" / "input.txt")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'vocab\.bpe' is in none of"):
        gpt2.load_gpt2([tmp_path])


def test_file_with_wrong_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\n! !\n")
    with pytest.raises(UserError, match=r"is not GPT-2's vocab\.bpe"):
        gpt2.load_gpt2([tmp_path])
