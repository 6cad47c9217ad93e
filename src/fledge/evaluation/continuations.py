"""Generate continuations greedily, and measure them: against references, for repetition, for copying.

Lengths are chosen in bytes of text, so that the numbers mean the same for tokens of one character and of a word.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fledge.core.errors import UserError
from fledge.datasets.shards import Split
from fledge.evaluation.copying import copied_ngrams
from fledge.evaluation.references import Reference
from fledge.evaluation.text_scores import ReferenceScores, ends_in_loop, reference_scores, repeated_ngrams
from fledge.inference.engine import Engine
from fledge.inference.request import Generation, Request, Sampling
from fledge.tokenizers.base import Tokenizer

PROMPT_BYTES, CONTINUATION_BYTES = 128, 256
REPEATED_BYTES, COPIED_BYTES = 16, 64  # of an n-gram: 4 and 16 tokens of a usual vocabulary for English
SAMPLE = 1 << 20  # tokens from which the bytes of a token are estimated
SHOWN = 3
Wrap = Callable[[Sequence[int]], Iterable[int]]


@dataclass(frozen=True)
class Sample:
    prompt: str
    reference: str
    generated: str


@dataclass(frozen=True, kw_only=True)
class TextMetrics(ReferenceScores):
    texts: int
    tokens: int  # that were generated
    repetition: float  # fraction of n-grams that had occurred before in the same text
    repetition_ngram: int  # tokens
    loops: float  # fraction of texts that end by saying the same three times or more
    copied: (
        float | None
    )  # fraction of n-grams that occur in the training split; None: no such split, or texts too short
    copied_references: float | None  # the same of the references: what is to be expected of true text
    copied_ngram: int
    samples: list[Sample]


@dataclass(frozen=True)
class Lengths:
    """In tokens."""

    prompt: int
    continuation: int
    repeated: int
    copied: int


def lengths_for(bytes_per_token: float, context: int) -> Lengths:
    """Prompt and continuation fit in the context."""
    prompt, continuation, repeated, copied = (
        math.ceil(count / bytes_per_token) for count in (PROMPT_BYTES, CONTINUATION_BYTES, REPEATED_BYTES, COPIED_BYTES)
    )
    return Lengths(max(1, min(prompt, context // 3)), max(1, min(continuation, context // 2)), repeated, copied)


def bytes_per_token(split: Split, byte_lengths: NDArray[np.int64]) -> float:
    """Of the first part of the split."""
    return max(0.1, float(byte_lengths[split.read(0, min(len(split), SAMPLE))].mean()))


def evaluate_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    references: Sequence[Reference],
    lengths: Lengths,
    train: Split | None,
    progress: Callable[[Sequence[int], str], Iterable[int]],
) -> TextMetrics:
    """A text is generated up to the length of its longest reference, or to the end of the text."""
    tokens = [[tokenizer.encode(text).tolist() for text in each.texts] for each in references]
    sizes = [max(1, *map(len, each)) for each in tokens]
    made = generate_greedily(engine, references, sizes, lambda steps: progress(steps, "generating"))
    if failed := [each.error for each in made if each.finish_reason == "error"]:
        raise UserError(f"{len(failed)} of {len(made)} texts could not be generated: {failed[0]}", "see: fledge doctor")
    generated = [generation.tokens for generation in made]
    scores = reference_scores([each.text for each in made], [each.texts for each in references])
    repeated, ngrams = np.sum([repeated_ngrams(each, lengths.repeated) for each in generated], axis=0)
    copies: list[float | None] = [None, None]
    if train is not None:
        every = [*generated, *(each[0] for each in tokens)]
        found = copied_ngrams(every, lengths.copied, train, lambda chunks: progress(chunks, "looking for copies"))
        parts = (np.concatenate(found[: len(made)]), np.concatenate(found[len(made) :]))
        copies = [float(part.mean()) if len(part) else None for part in parts]
    return TextMetrics(
        **vars(scores),
        texts=len(made),
        tokens=sum(map(len, generated)),
        repetition=float(repeated / max(1, ngrams)),
        repetition_ngram=lengths.repeated,
        loops=sum(ends_in_loop(each, lengths.copied) for each in generated) / len(made),
        copied=copies[0],
        copied_references=copies[1],
        copied_ngram=lengths.copied,
        samples=[Sample(a.prompt, a.texts[0], b.text) for a, b in list(zip(references, made, strict=True))[:SHOWN]],
    )


def generate_greedily(
    engine: Engine, references: Sequence[Reference], sizes: Sequence[int], progress: Wrap = iter
) -> list[Generation]:
    """The continuation of each prompt, up to so many tokens."""
    made = [
        engine.submit(Request(each.prompt_tokens, size, Sampling(temperature=0), when_full="reread"))
        for each, size in zip(references, sizes, strict=True)
    ]
    finished = 0
    for target in progress(range(1, len(made) + 1)):
        while finished < target:
            engine.step()
            finished = sum(each.finish_reason is not None for each in made)
    return made
