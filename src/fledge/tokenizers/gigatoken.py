"""The fastest way to the same ids: `gigatoken`, where it is installed and agrees with `tokenizers`, the judge.

It is young, so nothing rests on it: where it is missing, fails, or gives one different id on the probe below, the
answer is None, and the caller goes on with `tokenizers`. Only byte-level files are tried.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core import fast_json
from fledge.tokenizers import bpe
from fledge.tokenizers.byte_level import ALPHABET, BYTES, split_long_runs
from fledge.tokenizers.patterns import split_regex

Encode = Callable[[bytes], NDArray[np.uint32]]
SEPARATOR = b"\xff"  # no UTF-8 text holds this byte
BLOCK = 1 << 20

# What engines have disagreed on: contractions, spaces of every kind, digits, newlines, marks, scripts, long runs.
PROBE = (
    "It's what they'LL say; we've HE'S I'd'nt 'tis ''s\n def f(x_1, *, y=10.5e-3):\n\treturn x**2  # done \r\n\r\n"
    "  two  spaces   three\u00a0hard\u2003em\u3000wide\u0085next\u2028line\x1c\x1f\x0b\x0c\0\x7f\ufeff end "
    "12345678901 ١٢٣ ⅷ ½ x² naïve cafe\u0301 Straße ΑΘΗΝΑ Москва שלום مرحبا हिन्दी ไทย 日本語テキスト 한국어 "
    "🦆 \U0001f469\u200d\U0001f467 \U000e0041 "
    "'ſ 'K don’t <|endoftext|> <s> ▁a </w> \U0010ffff\ufffd"
    + "".join(map(chr, range(0x20, 0x250)))
    + "ab" * 200
    + "\n" * 70
    + " " * 70
    + "x\n"
) * 2


def fast_encoder(content: dict[str, Any], reference: Callable[[str], list[int]]) -> Encode | None:
    """Encodes UTF-8 on one core, as `reference` does. Without the special tokens: all text is plain."""
    plain = {**content, "added_tokens": [token for token in content["added_tokens"] if not token["special"]]}

    def load() -> Encode:
        import gigatoken

        return gigatoken.Tokenizer.from_json(fast_json.dumps(plain)).encode

    encode = _survives(load)
    if encode is None or _survives(lambda: encode(PROBE.encode()).tolist()) != reference(PROBE):
        return None
    return encode


class Spool:
    """Texts on their way to another process: in a file, so that memory does not grow with them. Gives them back, too,
    as the texts themselves may come only once."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts

    def __enter__(self) -> "Spool":
        self._file = tempfile.NamedTemporaryFile(prefix="fledge-", suffix=".txt")
        for text in split_long_runs(self._texts):
            self._file.write(text.encode() + SEPARATOR)
        self._file.flush()
        self.path = Path(self._file.name)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        rest = b""
        with self.path.open("rb") as file:
            while block := file.read(BLOCK):
                *whole, rest = (rest + block).split(SEPARATOR)
                yield from (text.decode() for text in whole)


def learn(texts: Spool, merges: int) -> list[tuple[bytes, bytes]] | None:
    """The merges of GPT-2's pattern, first learned first; None where they cannot be had this way.

    In a process of its own, as the library tells of its progress on stdout.
    """
    with tempfile.TemporaryDirectory(prefix="fledge-") as folder:
        answer = Path(folder) / "merges.json"
        command = [sys.executable, "-c", TRAINER, str(texts.path), str(BYTES + merges), str(answer)]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 — this Python, our own words
        if done.returncode or not answer.exists():
            return None
        found = [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in json.loads(answer.read_text())]
    return learned_from_scratch(texts, BYTES + merges) if exhausted(texts, found) else found


def exhausted(texts: Iterable[str], merges: list[tuple[bytes, bytes]]) -> bool:
    """Whether every chunk has become one token. There the library goes on, with pairs that are in the text no more.

    In most texts one of the first chunks says no.
    """
    tokens, seen = {*ALPHABET, *(a + b for a, b in merges)}, set[str]()
    for text in texts:
        for chunk in split_regex("gpt2").finditer(text):
            if chunk.group() not in seen and chunk.group().encode() not in tokens:
                return False
            seen.add(chunk.group())
    return True


def learned_from_scratch(texts: Iterable[str], vocab_size: int) -> list[tuple[bytes, bytes]]:
    pieces = list(ALPHABET)
    merges = bpe.learn_merges(bpe.count_chunks(texts, "gpt2"), pieces, vocab_size)
    return [(pieces[a], pieces[b]) for a, b in merges]


TRAINER = f"""
import json, sys, gigatoken
file, size, answer = sys.argv[1:]
source = gigatoken.TextFileSource([file], separator={SEPARATOR!r})
_, merges = gigatoken.train_bpe(source, int(size), [], tie_breaking="huggingface")
with open(answer, "w") as out:
    json.dump([(a.hex(), b.hex()) for a, b in merges], out)
"""


@cache
def trainer_available() -> bool:
    """Whether it learns from the probe what bpe.py learns. Asked once a process."""
    size = 512
    with Spool([PROBE]) as spool:
        return learn(spool, size - BYTES) == learned_from_scratch([PROBE], size)


def _survives(call: Callable[[], Any]) -> Any:
    """What `call` gives; None if it fails. A panic of a Rust library is no Exception, so it is named apart."""
    try:
        return call()
    except Exception:
        return None
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            return None
        raise
