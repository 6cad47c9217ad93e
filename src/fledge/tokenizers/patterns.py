"""The regular expressions that split text into chunks before BPE, so that no token spans two words.

    gpt2   words, numbers and punctuation, each with the space before it
    gpt4   the same, with at most three digits per chunk, and newlines in chunks of their own

The patterns are written as `tokenizer.json` stores them. For the `regex` package, `\\s` is replaced: Python counts the
separators U+001C to U+001F as white space, the Rust and C libraries do not. All of them agree on every character up to
Unicode 16; newer letters depend on the Unicode version of the library.
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
    """The compiled pattern. Its matches cover the whole text and do not overlap."""
    pattern = PATTERNS[name].replace(r"\s", r"\p{White_Space}").replace(r"\S", r"\P{White_Space}")
    return regex.compile(pattern)
