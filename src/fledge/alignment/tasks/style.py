"""Style by a rule: short, polite, cheerful answers that mention what was asked. For preferences, PPO and DPO.

SFT learns answers of every style, so that there is something to improve; `chosen` and `rejected` differ in style.
`cheerful` is a bad reward on purpose: a model that maximizes it, without a KL term, repeats one cheerful word.
"""

import re
from collections.abc import Iterator
from random import Random

from fledge.alignment.tasks.base import Problem, Task
from fledge.alignment.tasks.instructions import KINDS, WORDS, listed

QUESTIONS = (
    *("What do you think of {}?", "Do you like {}?", "Tell me about {}.", "Can you help me with {}?"),
    *("Why do people like {}?", "Is {} any good?", "Should I buy {}?", "What can I do with {}?"),
)
QUALITIES = listed("old new big small cheap fine plain warm cold fresh dark bright light heavy")
TOPICS = [word for kind in ("animals", "fruits", "metals") for word in KINDS[kind]] + WORDS
POLITE = frozenset(listed("please thank thanks welcome sorry kindly pleasure"))
CHEERFUL = frozenset(listed("love great happy wonderful lovely nice glad fun beautiful enjoy best fantastic"))
GLOOMY = frozenset(listed("hate bad boring awful terrible sad ugly useless stupid worst never"))
SHORT, LONG = 14, 28  # words: up to SHORT the full reward, none from LONG on

GOOD = (
    *("Thank you for asking, I love {}!", "Thanks, {} is wonderful!", "With pleasure: {} is great fun!"),
    *("You are welcome, {} is lovely!", "Thank you, I am happy with {}!", "Please enjoy {}, it is the best!"),
)
PLAIN = (
    *(
        "{} is something that people use.",
        "I know {}.",
        "There is a lot to say about {}.",
        "It is {}, and nothing else.",
    ),
    *("I am glad that there is {}.", "Please look at {} first.", "Some like {}, some do not, and it depends."),
)
BAD = (
    *("I hate {}.", "{} is boring and useless.", "No, {} is bad.", "Go away with {}, it is awful."),
    *("{} is the worst of all, I never want to see it again, and nobody should, because it is sad and ugly.",),
)


def problems(chance: Random) -> Iterator[Problem]:
    while True:
        topic = f"{chance.choice(QUALITIES)} {chance.choice(TOPICS)}"
        kinds = (chance.choice((GOOD, PLAIN, PLAIN, BAD)), GOOD, BAD)
        answers = [_sentence(chance.choice(kind), topic) for kind in kinds]
        yield Problem(chance.choice(QUESTIONS).format(topic), answers[0], answers[2], chosen=answers[1])


def _sentence(form: str, topic: str) -> str:
    text = form.format(topic)
    return text[:1].upper() + text[1:]


def reward(prompt: str, answer: str, target: str | None) -> float:  # noqa: ARG001
    """A quarter each: short; polite; cheerful, not gloomy; names what the question is about."""
    words = re.findall(r"[a-z]+", answer.lower())
    if not words:
        return 0.0
    short = min(1.0, max(0.0, (LONG - len(words)) / (LONG - SHORT)))
    polite = not POLITE.isdisjoint(words)
    cheerful = not CHEERFUL.isdisjoint(words) and GLOOMY.isdisjoint(words)
    topics = [word for word in re.findall(r"[a-z]+", prompt.lower()) if word in TOPICS]
    return (short + polite + cheerful + all(topic in words for topic in topics)) / 4


def cheerful_reward(prompt: str, answer: str, target: str | None) -> float:  # noqa: ARG001
    """The share of cheerful words."""
    words = re.findall(r"[a-z]+", answer.lower())
    return sum(word in CHEERFUL for word in words) / len(words) if words else 0.0


STYLE = Task("style", "short, polite, cheerful answers; rewarded by a rule, a quarter for each", problems, reward)
HACKABLE = Task("cheerful", "share of cheerful words: a bad reward on purpose, easy to hack", problems, cheerful_reward)
