"""Prompts and the continuations that a model is compared with: from a JSONL file, or cut from a split.

{"prompt": "To be, or not to be,", "reference": " that is the question"}
{"prompt": "Good", "references": [" morning", " night"]}
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fledge.core import fast_json
from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.inference.generate import prompt_ids
from fledge.tokenizers.base import Tokenizer

EXAMPLE = '{"prompt": "To be, or not", "reference": " to be"}'


@dataclass(frozen=True)
class Reference:
    prompt: str
    prompt_tokens: tuple[int, ...]
    texts: tuple[str, ...]  # at least one; a generated text is compared with the closest


def read_references(path: Path, tokenizer: Tokenizer) -> list[Reference]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise UserError(f"no file '{path}'", f"write one with lines like {EXAMPLE}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            prompt, texts = _parse(line, f"line {number} of '{path}'")
            found.append(Reference(prompt, prompt_ids(tokenizer, prompt), texts))
    if not found:
        raise UserError(f"'{path}' is empty", f"write lines like {EXAMPLE}")
    return found


def _parse(line: bytes, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        row: Any = fast_json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error})", f"write one object a line, like {EXAMPLE}") from None
    hint = f'write it like {EXAMPLE}, or with a list of "references"'
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{where} has no text "prompt"', hint)
    texts = [row["reference"]] if "reference" in row else row.get("references")
    if not isinstance(texts, list) or not texts:
        raise UserError(f'{where} has neither a "reference" nor a list of "references"', hint)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{where} has a reference that is empty, or no text", hint)
    return row["prompt"], tuple(texts)


def reference_bytes_per_token(references: Sequence[Reference], tokenizer: Tokenizer) -> float:
    texts = [text for each in references for text in each.texts]
    return sum(len(text.encode()) for text in texts) / max(1, sum(len(tokenizer.encode(text)) for text in texts))


def cut_references(split: Split, tokenizer: Tokenizer, count: int, prompt: int, continuation: int) -> list[Reference]:
    """`count` passages, evenly spread over the documents: `prompt` tokens, and the `continuation` tokens behind them.

    Fewer where the split has not that many. A passage lies within one document.
    """
    begins = split.document_starts()
    lengths = np.diff(np.append(begins, len(split))) - 1  # without the end-of-text token
    passages = np.maximum(0, lengths) // (prompt + continuation)
    ends = np.cumsum(passages)
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        raise UserError(
            f"no document of the {split.name} split has {prompt + continuation} tokens, so no continuation can be cut",
            "give your own: --references FILE",
        )
    found = []
    for number in np.unique(np.arange(min(count, total)) * total // min(count, total)):
        document = int(np.searchsorted(ends, number, side="right"))
        place = int(number - (ends[document] - passages[document]))
        ids = split.read(int(begins[document]) + place * (prompt + continuation), prompt + continuation)
        head, tail = ids[:prompt].tolist(), ids[prompt:].tolist()
        found.append(Reference(tokenizer.decode(head), tuple(head), (tokenizer.decode(tail),)))
    return list(_with_text(found))


def _with_text(references: list[Reference]) -> Iterator[Reference]:
    """Without passages that continue in nothing but spaces."""
    return (each for each in references if each.texts[0].strip())
