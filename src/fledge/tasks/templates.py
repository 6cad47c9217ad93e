"""The texts of the offline suite, drawn from templates: blocks of contexts and continuations.

    contexts        "The dog"       "The dogs"
    continuations   " is here."     " are here."

Continuation n of a block belongs to context n, and to no other. So a model that ignores the contexts, and prefers
frequent or short continuations, is right exactly once in each block: chance is the same for every tokenizer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Block = tuple[list[str], list[str]]  # contexts, continuations


def with_plural(words: str) -> list[tuple[str, str]]:
    return [(word, f"{word}s") for word in words.split()]


ANIMATE = [
    *with_plural("dog bird horse teacher doctor farmer king sister brother friend boy girl"),
    *[("child", "children"), ("man", "men"), ("woman", "women"), ("mouse", "mice"), ("wolf", "wolves")],
]
THINGS = [
    *with_plural("key letter door book picture table cabinet chair house lamp stone river"),
    *[("box", "boxes"), ("knife", "knives"), ("city", "cities"), ("leaf", "leaves")],
]
ADJECTIVES = ["old", "small", "young", "brown", "quiet", "tall", "happy", "poor", "other", "little"]
PREDICATES = [
    *[("is here", "are here"), ("was late", "were late"), ("has a name", "have a name")],
    *[
        ("sleeps well", "sleep well"),
        ("runs away", "run away"),
        ("likes it", "like it"),
        ("does not know", "do not know"),
    ],
]
PREPOSITIONS = ["near", "behind", "beside"]
PAST = ["slept", "laughed", "waited", "fell", "smiled", "left"]
ADVERBS = ["there", "again", "today", "alone", "quietly"]
REFLEXIVES = [
    *[((one, many), ("himself", "themselves")) for one, many in (("boy", "boys"), ("king", "kings"), ("man", "men"))],
    *[((one, many), ("herself", "themselves")) for one, many in (("girl", "girls"), ("queen", "queens"))],
    *[((he, she), ("himself", "herself")) for he, she in (("king", "queen"), ("father", "mother"), ("man", "woman"))],
]
TRANSITIVE = ["saw", "hurt", "washed", "helped", "blamed", "praised"]
BRACKETS = {"(": ")", "[": "]", "{": "}"}


def agreement(chance: Random) -> Block:
    nouns, adjective, predicate = chance.choice(ANIMATE), chance.choice(ADJECTIVES), chance.choice(PREDICATES)
    return [f"The {adjective} {noun}" for noun in nouns], [f" {verb}." for verb in predicate]


def attractor(chance: Random) -> Block:
    nouns, others, predicate = chance.choice(ANIMATE), chance.choice(THINGS), chance.choice(PREDICATES)
    middle = chance.choice(PREPOSITIONS)
    contexts = [f"The {noun} {middle} the {other}" for noun, other in zip(nouns, reversed(others), strict=True)]
    return contexts, [f" {verb}." for verb in predicate]


def determiner(chance: Random) -> Block:
    words = chance.choice([("this", "these"), ("that", "those"), ("a", "many"), ("one", "two")])
    nouns, verb = chance.choice(ANIMATE + THINGS[:13]), chance.choice(["saw", "knew", "found", "liked"])
    return [f"She {verb} {word}" for word in words], [f" {noun} again." for noun in nouns]


def reflexive(chance: Random) -> Block:
    (nouns, pronouns), verb = chance.choice(REFLEXIVES), chance.choice(TRANSITIVE)
    adjective = chance.choice(ADJECTIVES)
    return [f"The {adjective} {noun} {verb}" for noun in nouns], [f" {pronoun}." for pronoun in pronouns]


def word_order(chance: Random) -> Block:
    one, other = (noun for noun, _ in chance.sample(ANIMATE, 2))
    if chance.random() < 0.5:  # the old | dog slept.   the old man | slept there.
        adjective, verb, adverb = chance.choice(ADJECTIVES), chance.choice(PAST), chance.choice(ADVERBS)
        return [f"The {adjective}", f"The {adjective} {other}"], [f" {one} {verb}.", f" {verb} {adverb}."]
    thing, verb = chance.choice(THINGS)[0], chance.choice(["sat", "stood", "waited", "slept"])
    middle, near = chance.sample(
        PREPOSITIONS, 2
    )  # the dog sat | behind the house.   the dog sat near | the house again.
    return [f"The {one} {verb}", f"The {one} {verb} {near}"], [f" {middle} the {thing}.", f" the {thing} again."]


def copying(chance: Random) -> Block:
    """A line of made-up words, and the same line again up to one of them: which one follows?"""
    letters = "bdfgklmnprst", "aeiou", "bdgklmnprst"
    words: list[str] = []
    while len(words) < 5:
        word = "".join(map(chance.choice, letters))
        if word not in words:
            words.append(word)
    line = " ".join(words)
    return [f"{line}\n{' '.join(words[:n])}" for n in range(1, 5)], [f" {word}" for word in words[1:]]


def addition(chance: Random, digits: int) -> Block:
    """Three solved sums, and one to solve. The four answers have equally many digits, so equal lengths."""
    low, high = 10 ** (digits - 1), 10**digits - 1
    sums: dict[int, str] = {}
    length = chance.choice([digits, digits + 1]) if digits == 1 else digits
    while len(sums) < 7:
        a, b = chance.randint(low, high), chance.randint(low, high)
        if len(str(a + b)) == length:
            sums.setdefault(a + b, f"{a} + {b} =")
    solved, asked = list(sums.items())[:3], list(sums.items())[3:]
    start = "".join(f"{question} {answer}\n" for answer, question in solved)
    return [start + question for _, question in asked], [f" {answer}" for answer, _ in asked]


def brackets(chance: Random) -> Block:
    """Python: which brackets close what is open? One to three levels."""
    depth, openings = chance.randint(1, 3), list[str]()
    while len(openings) < 3:
        opening = "".join(chance.choices(list(BRACKETS), k=depth))
        if opening not in openings:
            openings.append(opening)
    name, first, second = chance.sample(["items", "names", "rows", "data", "keys", "values", "left", "right"], 3)
    closings = ["".join(BRACKETS[bracket] for bracket in reversed(opening)) for opening in openings]
    return [f"{name} = {opening}{first}, {second}" for opening in openings], [f"{closing}\n" for closing in closings]


@dataclass(frozen=True)
class Template:
    name: str
    about: str
    draw: Callable[[Random], Block]
    blocks: int

    def texts(self) -> list[Block]:
        """Different blocks, always the same ones."""
        chance, found = Random(self.name), dict[str, Block]()  # noqa: S311
        while len(found) < self.blocks:
            block = self.draw(chance)
            found.setdefault(repr(block), block)
        return list(found.values())


TEMPLATES = [
    Template("agreement", "subject and verb: The dogs | are here", agreement, 60),
    Template("agreement-attractor", "with a noun between: The key near the doors | is here", attractor, 60),
    Template("determiner-noun", "this | dog, these | dogs", determiner, 60),
    Template("reflexive", "The queen saw | herself", reflexive, 60),
    Template("word-order", "The old | dog slept, The old man | slept there", word_order, 60),
    Template("copying", "a line of made-up words again: which word follows?", copying, 30),
    Template("addition-1-digit", "after three solved sums: 3 + 4 = | 7", lambda chance: addition(chance, 1), 24),
    Template("addition-2-digits", "after three solved sums: 23 + 41 = | 64", lambda chance: addition(chance, 2), 24),
    Template("brackets", "Python: x = ([a, b | ])", brackets, 30),
]
