"""Spelling and letter counting: hard for a model whose tokens are parts of words."""

from collections.abc import Iterator
from random import Random
from string import ascii_lowercase

from fledge.alignment.tasks.base import Problem, Task, exact
from fledge.alignment.tasks.library import words


def spelling_problems(chance: Random) -> Iterator[Problem]:
    """The rejected answer has two neighbouring letters exchanged, or one too many."""
    for word in chance.sample(words(), len(words())):
        at = chance.randrange(len(word) - 1)
        wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if wrong == word:
            wrong = word[:at] + word[at:][:1] + word[at:]
        yield Problem(f"Spell {word}.", " ".join(word), " ".join(wrong))


def spelling_reward(prompt: str, answer: str, target: str | None) -> float:  # noqa: ARG001
    """1 for the right letters in order; else half the share of letters before the first mistake."""
    given, wanted = answer.split(), (target or "").split()
    if given == wanted:
        return 1.0
    right = next((n for n, (one, other) in enumerate(zip(given, wanted, strict=False)) if one != other), None)
    right = min(len(given), len(wanted)) if right is None else right
    return 0.5 * right / max(len(given), len(wanted), 1)


def counting_problems(chance: Random) -> Iterator[Problem]:
    """Mostly letters that the word has. The rejected answer is one more or one less."""
    while True:
        word = chance.choice(words())
        letter = chance.choice(word) if chance.random() < 0.75 else chance.choice(ascii_lowercase)
        count = word.count(letter)
        wrong = count + chance.choice((-1, 1) if count else (1,))
        yield Problem(f"How many times is the letter {letter} in {word}?", str(count), str(wrong))


SPELLING = Task("spelling", "spell a word, letter by letter", spelling_problems, spelling_reward)
COUNTING = Task("letter-counting", "count a letter in a word", counting_problems, exact)
