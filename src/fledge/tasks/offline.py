"""The offline suite: small tasks that need no download, and that a model of 1M to 100M parameters can pass or fail.

Templates (templates.py), induction, and the bits per byte of the embedded corpus by kind of text (python_text.py).
Always the same items. Those that the tokenizer cannot encode, or that do not fit in the context, count as skipped.
"""

import math
from collections import Counter
from collections.abc import Iterator
from random import Random

from fledge.core.errors import UserError
from fledge.evaluation.likelihood import Ids, Scorer
from fledge.tasks.multiple_choice import PLAIN, Item, score_items
from fledge.tasks.python_text import KINDS, python_texts
from fledge.tasks.results import ItemScore, TaskResult, summarize
from fledge.tasks.templates import TEMPLATES, Template

SUITE = "offline"
INDUCTION = "induction"
BITS = {f"bits-per-byte-{kind}": kind for kind in KINDS}
OFFLINE_TASKS = [*(template.name for template in TEMPLATES), INDUCTION, *BITS]
SEQUENCES, LENGTH, ASKED = 40, 16, 4  # of induction: blocks, tokens to remember, questions in a block


def run_offline(name: str, scorer: Scorer) -> TaskResult:
    """One task of the suite."""
    if name == INDUCTION:
        return induction(scorer)
    if name in BITS:
        return bits_per_byte(name, scorer)
    return from_template(next(template for template in TEMPLATES if template.name == name), scorer)


def from_template(template: Template, scorer: Scorer) -> TaskResult:
    items, skipped, number = [], 0, 0
    for cluster, (contexts, continuations) in enumerate(template.texts()):
        block = list(_items(scorer, contexts, continuations, cluster, number))
        number += len(contexts)
        items += block
        skipped += len(contexts) - len(block)
    return score_items(template.name, scorer, items, PLAIN, skipped=skipped, about=template.about)


def _items(scorer: Scorer, contexts: list[str], continuations: list[str], cluster: int, first: int) -> Iterator[Item]:
    """All items of a block, or none: half of a block would not have the chance level of the whole."""
    try:
        grid = [[scorer.encode_pair(context, each) for each in continuations] for context in contexts]
    except UserError:  # a character is not in the vocabulary
        return
    grid = [[(scorer.start + list(context), continuation) for context, continuation in row] for row in grid]
    if all(fits(scorer, *pair) for row in grid for pair in row):
        for gold, pairs in enumerate(grid):
            yield Item(first + gold, pairs, gold, cluster)


def fits(scorer: Scorer, context: Ids, continuation: Ids) -> bool:
    return len(continuation) > 0 and len(context) + len(continuation) <= scorer.context + 1


def induction(scorer: Scorer) -> TaskResult:
    """Random tokens, then one of them again: which one follows? The choices are what followed four of them."""
    chance, items = Random(INDUCTION), []  # noqa: S311
    known = [token for token in range(scorer.tokenizer.vocab_size) if token != scorer.tokenizer.end_of_text]
    length = min(LENGTH, scorer.context - len(scorer.start) - 1, len(known))
    if length > 2 * ASKED:
        for cluster in range(SEQUENCES):
            tokens = chance.sample(known, length)
            asked = chance.sample(range(0, length - 1, 2), ASKED)
            choices = [[tokens[at + 1]] for at in asked]
            for gold, at in enumerate(asked):
                context = scorer.start + tokens + tokens[at : at + 1]
                items.append(Item(cluster * ASKED + gold, [(context, each) for each in choices], gold, cluster))
    skipped = SEQUENCES * ASKED - len(items)
    about = f"{LENGTH} random tokens, then one of them again: which one follows?"
    return score_items(INDUCTION, scorer, items, PLAIN, skipped=skipped, about=about)


def bits_per_byte(name: str, scorer: Scorer) -> TaskResult:
    """Chance: how often each token occurs in these texts is known, and nothing else."""
    texts, numbers, encoded = python_texts()[BITS[name]], [], []
    for number, text in enumerate(texts):
        try:
            encoded.append(scorer.encode(text))
        except UserError:  # a character is not in the vocabulary
            continue
        numbers.append(number)
    found = scorer.rolling(encoded)
    bits = [-each.logprob / math.log(2) for each in found]
    scores = {n: ItemScore(b, each.bytes) for n, b, each in zip(numbers, bits, found, strict=True)}
    tokens, size = sum(each.tokens for each in found), sum(each.bytes for each in found)
    counts = Counter(token for ids in encoded for token in ids)
    chance = -sum(n * math.log2(n / tokens) for n in counts.values()) / size if size else math.nan
    uniform = math.log2(scorer.tokenizer.vocab_size) * tokens / size if size else math.nan
    return summarize(
        name,
        "bits_per_byte",
        scores,
        chance=chance,
        skipped=len(texts) - len(found),
        higher_is_better=False,
        about=f"{BITS[name]} of Python's library; chance: by token frequency",
        metrics={"bytes": size, "tokens": tokens, "uniform_guess": uniform},
    )
