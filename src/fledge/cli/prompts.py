"""Prompts from a file or from stdin."""

import json
import sys
from pathlib import Path

from fledge.core.errors import UserError
from fledge.core.files import user_path

JSONL = (".jsonl", ".ndjson")


def read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise not_text("stdin") from None


def not_text(name: str) -> UserError:
    return UserError(f"{name} is not UTF-8 text", "convert it to UTF-8")


def read_prompts(name: str) -> list[str]:
    """A prompt in each line that is not blank, or the "prompt" of each JSONL record; at least one."""
    path = user_path(name)
    try:
        text = read_stdin() if name == "-" else path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise not_text(f"'{name}'") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise UserError(f"'{name}' holds no prompts", "write one in each line")
    if Path(name).suffix not in JSONL and not lines[0][1].startswith('{"prompt"'):
        return [line for _, line in lines]
    return [parse_prompt(line, f"line {number} of '{name}'") for number, line in lines]


def parse_prompt(line: str, where: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError, RecursionError):
        prompt = None
    if not isinstance(prompt, str):
        raise UserError(f"{where} is not a record with a prompt", 'write {"prompt": "…"} in each line')
    return prompt
