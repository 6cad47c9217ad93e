"""Fast encoding with `gigatoken`, used only where it is installed and gives the ids of the `tokenizers` library.

The library is new, so nothing depends on it: if it is missing, fails, or gives one different id on the probe text,
the caller continues with `tokenizers`. It supports byte-level files only.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fledge.core import fast_json

Encode = Callable[[bytes], NDArray[np.uint32]]

# What tokenizers have disagreed on: contractions, all kinds of spaces, digits, newlines, marks, scripts, long runs.
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
    """A function that encodes UTF-8 as `reference` does, or None if it cannot be trusted.

    `content` is the tokenizer.json; its special tokens are removed, because all text is encoded as plain text.
    """
    plain = {**content, "added_tokens": [token for token in content["added_tokens"] if not token["special"]]}

    def load() -> Encode:
        import gigatoken

        return gigatoken.Tokenizer.from_json(fast_json.dumps(plain)).encode

    encode = _result_or_none(load)
    if encode is None or _result_or_none(lambda: encode(PROBE.encode()).tolist()) != reference(PROBE):
        return None
    return encode


def _result_or_none(call: Callable[[], Any]) -> Any:
    """The result of `call`, or None if it fails; a panic in Rust raises PanicException, which is no Exception."""
    try:
        return call()
    except Exception:
        return None
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            return None
        raise
