"""Tokenizer files of other kinds: small ones made by the `tokenizers` library, and checked against it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tokenizers as hf
from fledge.core.errors import UserError
from fledge.tokenizers.base import load_tokenizer
from fledge.tokenizers.bpe import BpeTokenizer
from fledge.tokenizers.hf import HFTokenizer
from fledge.tokenizers.streaming import TextStreamer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

TEXT = "Once upon a time there was a duck, and the duck could write. " * 20
SPECIALS = ["<unk>", "<s>", "</s>"]
BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama() -> hf.Tokenizer:
    """As in Llama 2: spaces are '▁', one is put before the text, and unknown characters become byte tokens."""
    library = hf.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(steps)
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIALS + BYTE_NAMES, show_progress=False)
    library.train_from_iterator([TEXT], trainer)
    content = json.loads(library.to_str())
    content["added_tokens"] = content["added_tokens"][: len(SPECIALS)]
    return hf.Tokenizer.from_str(json.dumps(content))


def unigram(scheme: str) -> hf.Tokenizer:
    """As in T5: a Unigram model; spaces are '▁'."""
    library = hf.Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    library.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    library.train_from_iterator([TEXT], trainer)
    return library


def wordpiece() -> hf.Tokenizer:
    library = hf.Tokenizer(models.WordPiece(unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=SPECIALS, show_progress=False)
    library.train_from_iterator([TEXT], trainer)
    return library


def loaded(library: hf.Tokenizer) -> HFTokenizer:
    return HFTokenizer.from_json(json.loads(library.to_str()))


LLAMA = llama()
OURS = loaded(LLAMA)


@given(st.text(alphabet="Oncup atimehrwsdk,.🦆é\n▁") | st.text())
def test_byte_fallback_ids_and_text_equal_the_library(text: str) -> None:
    ids = OURS.encode(text)
    assert ids.tolist() == LLAMA.encode(text, add_special_tokens=False).ids
    assert OURS.decode(ids) == LLAMA.decode(ids.tolist()) == text.replace("▁", " ")


@given(st.text())
def test_byte_fallback_streams_the_exact_text(text: str) -> None:
    stream = TextStreamer(OURS)
    decoded = "".join(stream.add(int(i)) for i in OURS.encode(text)) + stream.end()
    assert decoded == (" " + text.replace("▁", " ") if text else "")


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("text", ["a duck", "  a duck", "Once upon", "", "duck\nduck 🦆"])
def test_unigram_decoding_equals_the_library(scheme: str, text: str) -> None:
    library = unigram(scheme)
    ours = loaded(library)
    ids = library.encode(text).ids
    assert ours.encode(text).tolist() == ids
    assert ours.decode(ids) == library.decode(ids)


def test_wordpiece_decoding_equals_the_library() -> None:
    library = wordpiece()
    ours = loaded(library)
    ids = library.encode("the duck could write, Once").ids
    assert ours.encode("the duck could write, Once").tolist() == ids
    assert ours.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("make", [llama, lambda: unigram("always"), wordpiece])
def test_every_model_type_loads_and_encodes_plain_text(tmp_path: Path, make: Callable[[], hf.Tokenizer]) -> None:
    make().save(str(tmp_path / "theirs.json"))
    ours = load_tokenizer(tmp_path / "theirs.json")
    assert ours.end_of_text == 2
    assert ours.id_to_bytes(2) == b""
    for text in ("a</s>b", "</s> </s>"):
        assert not {1, 2} & set(ours.encode(text).tolist())
    with pytest.raises(UserError, match="no token -1"):
        ours.decode([-1])


def test_truncation_and_padding_of_the_file_are_ignored() -> None:
    library = llama()
    library.enable_truncation(2)
    library.enable_padding(length=50)
    assert loaded(library).encode("a duck").tolist() == OURS.encode("a duck").tolist()


def test_ids_without_a_token_decode_to_nothing() -> None:
    content = BpeTokenizer.train([TEXT], 260).to_json()
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"][last] = 300
    ours = HFTokenizer.from_json(content)
    assert ours.vocab_size == 301
    assert ours.id_to_bytes(280) == b""
    assert ours.decode(ours.encode(TEXT)) == TEXT


def test_added_tokens_decode_to_their_text() -> None:
    library = hf.Tokenizer.from_str(json.dumps(BpeTokenizer.train([TEXT], 260).to_json()))
    library.add_tokens(["<tab key>", "naïve"])
    ours = loaded(library)
    assert ours.decode(ours.encode("a<tab key>b naïve")) == "a<tab key>b naïve"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("added_tokens"),
        lambda content: content.update(added_tokens=[{}]),
        lambda content: content.update(decoder={"type": "Magic"}),
        lambda content: content["model"].pop("merges"),
        lambda content: content["model"].update(merges=[["no", "such"]]),
        lambda content: content["model"].update(vocab={}),
        lambda content: content["model"].update(vocab=["a"]),
        lambda content: content["model"]["vocab"].update({"far": 4_294_967_295}),
        lambda content: content["model"]["vocab"].update({"below": -1}),
        lambda content: content["model"].update(type="Unknown"),
    ],
    ids=range(10),
)
def test_damaged_file_is_refused_by_name(tmp_path: Path, change: Callable[[Any], object]) -> None:
    content = BpeTokenizer.train([TEXT], 270).to_json()
    change(content)
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"odd\.json"):
        load_tokenizer(tmp_path / "odd.json")
