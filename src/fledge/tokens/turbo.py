"""The fastest way to the same ids: `gigatoken` where it is installed and agrees with `tokenizers`, which stays the judge.

It is young, so nothing rests on it: where it is missing, fails, or gives one different id on the probe below, the
answer is None, and the caller goes on with `tokenizers`. Only byte-level files are tried.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.tokens.bytelevel import BYTES, well_formed

Encode = Callable[[bytes], NDArray[np.uint32]]
SEPARATOR = b"\xff"  # no UTF-8 text holds this byte

# What engines have disagreed on: contractions, spaces of every kind, digits, newlines, marks, scripts, long runs.
PROBE = (
    "It's what they'LL say; we've HE'S I'd'nt 'tis ''s\n def f(x_1, *, y=10.5e-3):\n\treturn x**2  # done \r\n\r\n"
    "  two  spaces   three\u00a0hard\u2003em\u3000wide\u0085next\u2028line\x1c\x1f\x0b\x0c\0\x7f\ufeff end "
    "12345678901 ١٢٣ ⅷ ½ x² naïve cafe\u0301 Straße ΑΘΗΝΑ Москва שלום مرحبا हिन्दी ไทย 日本語テキスト 한국어 🦆👩‍👩‍👧 \U000e0041 "
    "'ſ 'K don’t <|endoftext|> <s> ▁a </w> \U0010ffff\ufffd"
    + "".join(map(chr, range(0x20, 0x250)))
    + "ab" * 200
    + "\n" * 70
    + " " * 70
    + "x\n"
) * 2


def encoder(content: dict[str, Any], reference: Callable[[str], list[int]]) -> Encode | None:
    """Encodes UTF-8 on one core, as `reference` does. Without the special tokens: all text is plain."""
    plain = {**content, "added_tokens": [token for token in content["added_tokens"] if not token["special"]]}

    def load() -> Encode:
        import gigatoken

        return gigatoken.Tokenizer.from_json(json.dumps(plain)).encode

    encode = _survives(load)
    if encode is None or _survives(lambda: encode(PROBE.encode()).tolist()) != reference(PROBE):
        return None
    return encode


def learn(texts: Iterable[str], merges: int) -> list[tuple[bytes, bytes]] | None:
    """The merges of GPT-2's pattern, first learned first; None where they cannot be had this way.

    In a process of its own, as the library tells of its progress on stdout. The texts go through a file, so memory
    does not grow with them.
    """
    if not _trains_like_the_reference():
        return None
    with tempfile.NamedTemporaryFile(prefix="fledge-", suffix=".txt") as file:
        for text in texts:
            file.write(well_formed(text).encode() + SEPARATOR)
        file.flush()
        return _learn(Path(file.name), merges)


def _learn(file: Path, merges: int) -> list[tuple[bytes, bytes]] | None:
    with tempfile.TemporaryDirectory(prefix="fledge-") as folder:
        answer = Path(folder) / "merges.json"
        command = [sys.executable, "-c", TRAINER, str(file), str(BYTES + merges), str(answer)]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 — this Python, our own words
        if done.returncode or not answer.exists():
            return None
        return [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in json.loads(answer.read_text())]


TRAINER = f"""
import json, sys, gigatoken
file, size, answer = sys.argv[1:]
source = gigatoken.TextFileSource([file], separator={SEPARATOR!r})
_, merges = gigatoken.train_bpe(source, int(size), [], tie_breaking="huggingface")
with open(answer, "w") as out:
    json.dump([(a.hex(), b.hex()) for a, b in merges], out)
"""


@cache
def _trains_like_the_reference() -> bool:
    """Both learn from the probe, once a process."""
    from fledge.tokens.bpe import ALPHABET, count_chunks
    from fledge.tokens.bpe import learn as learn_here

    pieces, size = list(ALPHABET), 512
    expected = [(pieces[a], pieces[b]) for a, b in learn_here(count_chunks([PROBE], "gpt2"), pieces, size)]
    with tempfile.NamedTemporaryFile(prefix="fledge-", suffix=".txt") as file:
        file.write(PROBE.encode() + SEPARATOR)
        file.flush()
        return _learn(Path(file.name), size - BYTES) == expected


def _survives(call: Callable[[], Any]) -> Any:
    """What `call` gives; None if it fails. A panic of a Rust library is no Exception, so it is named apart."""
    try:
        return call()
    except Exception:
        return None
    except BaseException as error:
        if re.fullmatch("PanicException", type(error).__name__):
            return None
        raise
