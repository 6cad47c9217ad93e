"""A tokenizer.json with tokens added to it, as toyGPT's: GPT-2's, <pad> and <|startoftext|>."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.core import fast_json
from fledge.tokenizers import gpt2
from fledge.tokenizers.base import load_tokenizer, save_tokenizer
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.hf_json import added_tokens_json

ADDED = ("<pad>", "<|startoftext|>")


@pytest.fixture(scope="module")
def plain(data: Path) -> HFTokenizer:
    return gpt2.load_gpt2([data / "gpt2"])


@pytest.fixture(scope="module")
def added(plain: HFTokenizer, tmp_path_factory: pytest.TempPathFactory) -> HFTokenizer:
    content = plain.to_json()
    content["added_tokens"] += added_tokens_json((50257 + n, name, True) for n, name in enumerate(ADDED))
    file = tmp_path_factory.mktemp("added") / "tokenizer.json"
    file.write_bytes(fast_json.dumps(content))
    found = load_tokenizer(file)
    assert isinstance(found, HFTokenizer)
    return found


def test_vocabulary_has_the_added_tokens(added: HFTokenizer, tmp_path: Path) -> None:
    assert (added.vocab_size, added.end_of_text) == (50259, 50256)
    assert added.decode([50258, 15496, 50257]) == "Hello"  # special tokens are no text
    save_tokenizer(added, tmp_path / "again.json")
    assert load_tokenizer(tmp_path / "again.json").vocab_size == 50259


def test_ids_of_text_are_those_of_gpt2(plain: HFTokenizer, added: HFTokenizer, real_text: Callable[[str], str]) -> None:
    text = real_text("shakespeare")[:100_000]  # enough for the fast encoder
    assert added.encode(text).tolist() == plain.encode(text).tolist()
    for words in ("<pad>", "a <|startoftext|>b", "<|startoftext|><|endoftext|>"):
        assert added.encode(words).tolist() == plain.encode(words).tolist()  # plain text
        assert added.decode(added.encode(words)) == words
