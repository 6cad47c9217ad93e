"""Scores of generated texts: BLEU, chrF and ROUGE by their reference implementations, and repetition.

BLEU and chrF run from 0 to 100, as sacrebleu reports them; ROUGE is an F-measure from 0 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fledge.core.errors import UserError

ROUGE = ("rouge1", "rouge2", "rougeL")
LOOP = 3  # how often a text must say the same in a row to be called a loop


@dataclass(frozen=True)
class ReferenceScores:
    bleu: float
    chrf: float
    rouge1: float  # mean over texts; of several references, the closest
    rouge2: float
    rougeL: float  # noqa: N815  (its name)


def require_libraries() -> None:
    """Called before anything is generated."""
    try:
        import rouge_score  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed", "pip install 'fledge[eval]'") from None


def reference_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> ReferenceScores:
    """texts [N]; references [N], each at least one."""
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    most = max(map(len, references))
    # sacrebleu wants the first references of all texts, then the second ones, …; None where a text has no more.
    streams: Any = [[each[i] if i < len(each) else None for each in references] for i in range(most)]
    scorer = RougeScorer(list(ROUGE))
    rouge = [scorer.score_multi(list(each), text) for each, text in zip(references, texts, strict=True)]
    return ReferenceScores(
        sacrebleu.corpus_bleu(texts, streams, force=True).score,
        sacrebleu.corpus_chrf(texts, streams).score,
        *(sum(score[name].fmeasure for score in rouge) / len(rouge) for name in ROUGE),
    )


def repeated_ngrams(tokens: Sequence[int], n: int) -> tuple[int, int]:
    """How many n-grams have occurred before in these tokens, and how many there are."""
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(ngrams) - len(set(ngrams)), len(ngrams)


def ends_in_loop(tokens: Sequence[int], least: int) -> bool:
    """Whether the end, at least `least` tokens, is the same piece three times or more, whatever its length."""
    for period in range(1, len(tokens) // LOOP + 1):
        length = max(LOOP * period, least)
        tail = tokens[-length:]
        if len(tail) == length and all(a == b for a, b in zip(tail, tail[period:], strict=False)):
            return True
    return False
