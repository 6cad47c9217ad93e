"""p50k_base, made from GPT-2's files, checked against tiktoken: its file is made too, and tiktoken knows its hash."""

import base64
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fledge.core.errors import UserError
from fledge.tokenizers import gpt2
from fledge.tokenizers.config import TokenizerConfig
from fledge.tokenizers.hf import HFTokenizer

tiktoken = pytest.importorskip("tiktoken")

URL = "https://openaipublic.blob.core.windows.net/encodings/p50k_base.tiktoken"
PIECES = (" ", "  ", "\n", "\t", "\r\n", "\xa0", "def", "x", "1", ".", "日", " = ", "<|endoftext|>")


@pytest.fixture(scope="module")
def ours(data: Path) -> HFTokenizer:
    return gpt2.load_gpt2([data / "gpt2"], space_runs=True)


@pytest.fixture(scope="module")
def reference(ours: HFTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[int]]:
    """tiktoken's own p50k_base, which reads its file from a cache and refuses it if its SHA-256 is another."""
    folder = tmp_path_factory.mktemp("tiktoken")
    ids = [i for i in range(ours.vocab_size) if i != ours.end_of_text]
    rows = [base64.b64encode(ours.id_to_bytes(i)) + b" %d\n" % i for i in ids]
    (folder / hashlib.sha1(URL.encode(), usedforsecurity=False).hexdigest()).write_bytes(b"".join(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        patch.setattr("tiktoken.load.read_file", lambda _: pytest.fail("the file in the cache is not p50k_base's"))
        encoding = tiktoken.get_encoding("p50k_base")
    assert encoding.n_vocab == ours.vocab_size == 50281
    encode: Callable[[str], list[int]] = encoding.encode_ordinary
    return encode


def test_ids_of_every_run_of_spaces_equal_tiktoken(ours: HFTokenizer, reference: Callable[[str], list[int]]) -> None:
    for length in range(200):
        for text in (" " * length, " " * length + "x", "\n" + " " * length + "\n  x"):
            assert ours.encode(text).tolist() == reference(text), length


def test_ids_of_code_equal_tiktoken(
    ours: HFTokenizer, reference: Callable[[str], list[int]], real_text: Callable[[str], str]
) -> None:
    text = real_text("python")[:300_000]
    ids = ours.encode(text)
    assert ids.tolist() == reference(text)
    assert ids.max() > 50256  # runs of spaces
    assert ours.decode(ids.tolist()) == text


def test_ids_of_random_strings_equal_tiktoken(ours: HFTokenizer, reference: Callable[[str], list[int]]) -> None:
    chance = random.Random(1)
    for _ in range(1000):
        text = "".join(chance.choice(PIECES) for _ in range(chance.randint(0, 30)))
        assert ours.encode(text).tolist() == reference(text), repr(text)


def test_other_vocabulary_size_is_refused() -> None:
    assert TokenizerConfig(kind="p50k").size == 50281
    with pytest.raises(UserError, match="the tokenizer p50k has 50281 tokens, not 50257"):
        TokenizerConfig(kind="p50k", vocab_size=50257)
