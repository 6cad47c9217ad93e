"""How text is cut into chunks before anything is merged, so that no token ever spans two words.

    gpt2   words, numbers and signs, each with the space before it
    gpt4   the same, but numbers in groups of three digits, and newlines kept apart

Written as `tokenizer.json` holds them. For the `regex` package, `\\s` is spelled out: Python counts four old
separators (U+001C to U+001F) as spaces, and the libraries in Rust and C do not. All agree on every character up to
Unicode 16; newer letters are letters only to those libraries that have heard of them.
"""

import functools

import regex

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt2": GPT2, "gpt4": GPT4}


@functools.cache
def split_regex(name: str) -> "regex.Pattern[str]":
    """Finds the chunks of a text, one after the other: nothing is left out, nothing overlaps."""
    spelled = PATTERNS[name].replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}")
    return regex.compile(spelled)
