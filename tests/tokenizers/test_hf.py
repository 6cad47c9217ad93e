"""Byte-level BPE through the `tokenizers` library, and training equal to the one from scratch."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import UserError
from fledge.tokenizers import hf
from fledge.tokenizers.base import END_OF_TEXT, byte_lengths, fingerprint, load_tokenizer, save_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.byte_level import RUN_LENGTH, split_long_runs
from fledge.tokenizers.hf import READ_AHEAD, HFTokenizer
from fledge.tokenizers.patterns import split_regex
from fledge.tokenizers.streaming import TextStreamer

TEXT = "Once upon a time there was a duck, and the duck could write. " * 20
BPE = HFTokenizer.train([TEXT], 280, END_OF_TEXT)


@given(st.text())
def test_decode_inverts_encode(text: str) -> None:
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text
    assert b"".join(BPE.id_to_bytes(i) for i in ids) == text.encode()


@given(st.text())
def test_streamed_text_has_no_half_characters(text: str) -> None:
    stream, ids = TextStreamer(BPE), BPE.encode(text)
    parts = [stream.add(i) for i in ids]
    assert "".join(parts) + stream.end() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


def test_special_token_in_a_text_is_plain_text() -> None:
    ids = BPE.encode(f"a{END_OF_TEXT}b")
    assert BPE.end_of_text not in ids
    assert BPE.decode(ids) == f"a{END_OF_TEXT}b"


def test_end_of_text_decodes_to_nothing() -> None:
    assert BPE.end_of_text is not None
    assert BPE.id_to_bytes(BPE.end_of_text) == b""
    assert BPE.decode([BPE.end_of_text]) == ""


def test_load_inverts_save(tmp_path: Path) -> None:
    save_tokenizer(BPE, tmp_path / "tokenizer.json")
    back = load_tokenizer(tmp_path / "tokenizer.json")
    assert (back.kind, back.vocab_size, back.end_of_text) == ("bpe", 280, BPE.end_of_text)
    assert (
        back.encode(f"{TEXT} naïve 🦆 {END_OF_TEXT}").tolist() == BPE.encode(f"{TEXT} naïve 🦆 {END_OF_TEXT}").tolist()
    )
    assert fingerprint(back) == fingerprint(BPE)


def test_training_is_deterministic() -> None:
    assert HFTokenizer.train([TEXT], 280, END_OF_TEXT).to_json() == BPE.to_json()


def test_encoding_compresses_frequent_text() -> None:
    assert len(BPE.encode(TEXT)) < len(TEXT) / 2


def test_byte_lengths_add_up_to_the_text() -> None:
    ids = BPE.encode(TEXT)
    assert byte_lengths(BPE)[ids].sum() == len(TEXT.encode())


@pytest.mark.parametrize(("vocab_size", "named"), [(256, "256"), (2, "2"), (100_000, "100000")])
def test_impossible_vocab_size_is_refused(vocab_size: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        HFTokenizer.train([TEXT], vocab_size, END_OF_TEXT)


def test_training_with_many_ties_equals_from_scratch() -> None:
    rng = random.Random(3)
    texts = ["".join(rng.choices("aab ", k=120)) for _ in range(20)] + ["a" * 57, ""]
    expected = BpeTokenizer.train(texts, 320, exact=False)
    assert HFTokenizer.train(iter(texts), 320, exact=False).to_json() == expected.to_json()


@pytest.mark.parametrize("text", ["a" * 10, "aaabbbbb", " ==--=======--=== ", "# Title\n" + "-" * 77 + "\n"])
def test_training_stops_when_no_pair_is_left(text: str) -> None:
    made = HFTokenizer.train([text], 1024, exact=False)
    assert made.to_json() == BpeTokenizer.train([text], 1024, exact=False).to_json()
    assert len(made.encode(text)) == len(split_regex("gpt2").findall(text))


@pytest.mark.parametrize("run", ["a", " ", "\n", "ACGTTGCA", "- "])
def test_long_runs_are_cut_for_training(run: str) -> None:
    text = f"begin {run * (300_000 // len(run))}x end"
    made = HFTokenizer.train([text], 300, exact=False)
    assert made.to_json() == BpeTokenizer.train([text], 300, exact=False).to_json()
    assert "".join(split_long_runs([text])) == text
    chunks = (chunk for part in split_long_runs([text]) for chunk in split_regex("gpt2").findall(part))
    assert all(len(chunk) < 3 * RUN_LENGTH for chunk in chunks)


TRAINING = """
import random
from fledge.core.signals import sigterm_as_ctrl_c
from fledge.tokenizers.hf import HFTokenizer

def texts():
    chance = random.Random(0)
    for _ in range(20):
        yield "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=200_000))
    print("read", flush=True)

with sigterm_as_ctrl_c():
    HFTokenizer.train(texts(), 100_000)
print("trained")
"""


def test_ctrl_c_is_heard_while_merges_are_learned() -> None:
    """In one call into the library, which takes most of a minute here."""
    process = subprocess.Popen([sys.executable, "-c", TRAINING], text=True, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "read\n"
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    assert "Sigterm" in stderr


def test_failure_of_the_library_is_raised_however_many_texts_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "split_long_runs", lambda texts: texts)  # which would refuse bytes here
    with pytest.raises(TypeError):
        HFTokenizer.train([b"bytes"] * 3 * READ_AHEAD, 300)  # type: ignore[list-item]
