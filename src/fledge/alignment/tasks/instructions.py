"""Short instructions that a program can check: repeat, reverse, upper case, count, sort, list some animals."""

import re
from collections.abc import Callable, Iterator
from random import Random

from fledge.alignment.tasks.base import Problem, Task, exact


def listed(words: str) -> list[str]:
    return words.split()


WORDS = listed(
    "tea cup sun moon tree river stone bird cloud door lamp road ship rain snow wind fire gold hand heart island "
    "letter music night paper queen salt table voice water winter garden window bridge castle forest summer bread "
    "button candle basket circle feather mirror needle pencil ribbon silver thunder village"
)
KINDS = {
    "animals": listed("cat dog horse cow sheep goat lion tiger bear wolf fox mouse rabbit"),
    "colours": listed("red green blue yellow black white brown orange pink grey purple"),
    "fruits": listed("apple pear plum cherry banana lemon orange grape peach melon"),
    "days": listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "months": listed("January February March April May June July August September October November December"),
    "planets": listed("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune"),
    "numbers": listed("one two three four five six seven eight nine ten"),
    "metals": listed("iron gold silver copper tin lead zinc nickel"),
}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
LIST = re.compile(r"List (\w+) (\w+)\.")


def repeat(chance: Random) -> Problem:
    word, (name, count) = chance.choice(WORDS), chance.choice(list(NUMBERS.items()))
    wrong = count + chance.choice((-1, 1))
    return Problem(f"Write {word} {name} times.", " ".join([word] * count), " ".join([word] * wrong))


def upper_case(chance: Random) -> Problem:
    first, second = chance.sample(WORDS, 2)
    text = f"{first} {second}"
    return Problem(f"Write {text} in capital letters.", text.upper(), text.title())


def backwards(chance: Random) -> Problem:
    words = chance.sample(WORDS, chance.randint(2, 4))
    rejected = words if len(words) < 3 else [words[-1], *words[:-1]]
    return Problem(f"Reverse these words: {' '.join(words)}", " ".join(words[::-1]), " ".join(rejected))


def in_order(chance: Random) -> Problem:
    words = chance.sample(WORDS, chance.randint(2, 4))
    right = sorted(words)
    return Problem(f"Sort these words: {' '.join(words)}", " ".join(right), " ".join(right[::-1]))


def count_up(chance: Random) -> Problem:
    first, length = chance.randint(1, 90), chance.randint(3, 6)
    right = [str(first + n) for n in range(length)]
    return Problem(f"Count from {right[0]} to {right[-1]}.", " ".join(right), " ".join(right[:-1]))


def nth_word(chance: Random) -> Problem:
    words, (name, at) = chance.sample(WORDS, 3), chance.choice([("first", 0), ("second", 1), ("last", 2)])
    return Problem(f"Name the {name} of these words: {' '.join(words)}", words[at], words[at - 1])


def some_of(chance: Random) -> Problem:
    (kind, members), (name, count) = chance.choice(list(KINDS.items())), chance.choice(list(NUMBERS.items()))
    right = chance.sample(members, count)
    return Problem(f"List {name} {kind}.", ", ".join(right), ", ".join(right[:-1]))


TEMPLATES: tuple[Callable[[Random], Problem], ...] = (
    *(repeat, upper_case, backwards, in_order, count_up, nth_word, some_of),
)


def problems(chance: Random) -> Iterator[Problem]:
    while True:
        yield chance.choice(TEMPLATES)(chance)


def reward(prompt: str, answer: str, target: str | None) -> float:
    """1 for the target, else 0; for a list the share of its places that are filled with different right words."""
    asked = LIST.fullmatch(prompt)
    if not asked or asked[1] not in NUMBERS or asked[2] not in KINDS:
        return exact(prompt, answer, target)
    given, wanted = [each.strip() for each in answer.split(",")], NUMBERS[asked[1]]
    return min(wanted, len(set(given) & set(KINDS[asked[2]]))) / max(wanted, len(given))


TASK = Task("instructions", "repeat, reverse, sort, count, upper case, list some animals", problems, reward)
