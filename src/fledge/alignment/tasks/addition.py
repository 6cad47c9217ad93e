"""Addition of two numbers of two or three digits: 9 7 + 1 5 8 = → 5 5 2 (the sum 255, last digit first).

Spaces between the digits make every tokenizer read them one by one. The answer begins with the last digit, as a
person adds: each digit then depends on two digits and a carry, and a small model can learn it.
"""

from collections.abc import Iterator
from random import Random

from fledge.alignment.tasks.base import Problem, Task, exact


def problem(a: int, b: int, wrong: int) -> Problem:
    """`wrong`: the rejected answer, as a number."""
    prompt = f"{' '.join(str(a))} + {' '.join(str(b))} ="
    return Problem(prompt, reversed_digits(a + b), reversed_digits(wrong), key=f"{min(a, b)} + {max(a, b)}")


def reversed_digits(number: int) -> str:
    return " ".join(reversed(str(number)))


def problems(chance: Random) -> Iterator[Problem]:
    """The rejected answer is off by one in one digit: a carry that was forgotten, or one too many."""
    while True:
        a, b = (chance.randrange(10 ** (digits - 1), 10**digits) for digits in (chance.choice((2, 3)) for _ in "ab"))
        off = 10 ** chance.randrange(len(str(a + b)))
        yield problem(a, b, a + b + off * chance.choice((-1, 1)))


TASK = Task("addition", "add numbers of two or three digits; the sum begins with its last digit", problems, exact)
