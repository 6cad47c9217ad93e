"""Messages → token ids, for models that were trained on conversations.

A chat template is a Jinja program in Hugging Face's format: it writes the messages of a conversation as one text, with
special tokens between them. It comes with an imported model (tokenizer_config.json). A model whose tokenizer has the
four `CHAT_TOKENS` was trained on our own format:

    <|system|>Be short.<|end|><|user|>Hello!<|end|><|assistant|>          and the model writes: Hi.<|end|>

Templates come from outside, so they run in Jinja's sandbox, on plain strings only. What a person wrote is text: where a
message contains the name of a special token, it is encoded as plain text.
"""

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fledge.core.errors import UserError
from fledge.tokenizers.base import Tokenizer, parse_tokenizer
from fledge.tokenizers.hf_json import CHAT_TOKENS, added_tokens_json

ROLES = ("system", "developer", "user", "assistant", "tool")
OUR_ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEMPLATE, END_OF_TURN = "chat_template", "eos_token"  # keys of tokenizer_config.json
TOKEN_NAMES = ("bos_token", END_OF_TURN, "unk_token", "pad_token")  # keys too; templates may write them
NONCHARACTERS = range(0xFDD0, 0xFDF0)  # code points that no text should contain
PRIVATE_USE = range(0xF0000, 0x10FFFE)

Message = Mapping[str, str]  # {"role": "user", "content": "Hello!"}


def chat_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """What a chat needs of a `tokenizer_config.json`: the template, and the tokens that it names. Empty without one."""
    template = config.get(TEMPLATE)
    if isinstance(template, list):  # several, by name
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    if not isinstance(template, str):
        return {}
    tokens = {name: config.get(name) for name in TOKEN_NAMES}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {TEMPLATE: template, **{name: text for name, text in texts.items() if isinstance(text, str)}}


def find_chat_template(tokenizer: Tokenizer, config: Mapping[str, Any]) -> "ChatTemplate | None":
    """The template of `config` (a tokenizer_config.json), or our own for a tokenizer with our tokens; else None."""
    settings = chat_settings(config)
    if not settings and set(CHAT_TOKENS) <= _special_tokens(tokenizer).keys():
        settings = {TEMPLATE: CHAT_TEMPLATE}
    return ChatTemplate(tokenizer, settings) if settings else None


def add_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the four chat tokens; those that it lacks get the next ids. No text encodes to them."""
    content, known = tokenizer.to_json(), _special_tokens(tokenizer)
    missing = [name for name in CHAT_TOKENS if name not in known]
    if not missing:
        return tokenizer
    vocabulary, added = content["model"]["vocab"], content["added_tokens"]  # the vocabulary: names → ids, or pairs
    names = {entry if isinstance(entry, str) else entry[0] for entry in vocabulary} | {t["content"] for t in added}
    if taken := [name for name in missing if name in names]:
        raise UserError(
            f"this tokenizer has '{taken[0]}' as ordinary text, and a chat needs it as a special token",
            "use another tokenizer, or a model that comes with a chat template of its own",
        )
    first = tokenizer.vocab_size
    added += added_tokens_json((i, name, True) for i, name in enumerate(missing, first))
    if tokenizer.kind == "char" or first > len(names):  # after a gap, the library takes ids from the vocabulary only
        vocabulary |= {name: i for i, name in enumerate(missing, first)}
    return parse_tokenizer(content, "the tokenizer with chat tokens")


class ChatTemplate:
    def __init__(self, tokenizer: Tokenizer, settings: Mapping[str, str]) -> None:
        """settings: as `chat_settings` gives them."""
        self.settings = settings
        self.roles = OUR_ROLES if settings[TEMPLATE] == CHAT_TEMPLATE else ROLES
        self._tokenizer = tokenizer
        self._special = _special_tokens(tokenizer)
        self._token_names = {name: settings[name] for name in TOKEN_NAMES if name in settings}
        try:
            self._template = _environment().from_string(settings[TEMPLATE])
        except jinja2.TemplateError as error:
            raise _template_error(error) from None
        self.stop_tokens = self._find_stop_tokens()  # one of them ends an answer

    def encode(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """The ids of a conversation, up to where the next answer begins, or without that beginning."""
        protected, guard = self._protected(messages)
        text = self._render(protected, add_generation_prompt)
        return [i for _, ids in self._encode_pieces(text, guard) for i in ids]

    def encode_with_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and which of them training counts: the answers, each with the token that ends it.

        An answer is what a template writes after the messages before it and their generation prompt. It is encoded by
        itself, as the model generates it: no token reaches over its beginning.
        """
        protected, guard = self._protected(messages)
        text, spans = self._render(protected, False), list[tuple[int, int]]()
        for number, message in enumerate(protected):
            if message["role"] == "assistant":
                before, after = self._render(protected[:number], True), self._render(protected[: number + 1], False)
                if not (text.startswith(after) and after.startswith(before)):
                    raise UserError(
                        "the chat template of this model writes a conversation differently after an answer than before"
                        " it, so the tokens of the answer are unknown",
                        "train on conversations of one question and one answer, or start from another model",
                    )
                spans.append((len(before), len(before) + self._turn_length(after[len(before) :])))
        ids, is_answer, cuts = list[int](), list[bool](), [cut for span in spans for cut in span]
        for position, piece in self._encode_pieces(text, guard, cuts):
            ids += piece
            is_answer += [any(begin <= position < end for begin, end in spans)] * len(piece)
        return ids, is_answer

    def _turn_length(self, text: str) -> int:
        """Up to and with the token that ends a turn; a line break that the template writes after it does not count."""
        ends = [match.end() for match in self._find_special(text) if self._special[match[0]]["id"] in self.stop_tokens]
        return ends[0] if ends else len(text)

    def _protected(self, messages: Sequence[Message]) -> tuple[list[Message], str]:
        """The messages with a character, which is also returned, in whatever could be read as a special token."""
        guard = _unused_character(messages)
        return [{**each, "content": self._protect(each["content"], guard)} for each in messages], guard

    def _encode_pieces(self, text: str, guard: str, cuts: Sequence[int] = ()) -> Iterator[tuple[int, list[int]]]:
        """Special tokens, and the plain text between them, cut at `cuts` too: where each begins, and its ids."""

        def plain(start: int, stop: int) -> Iterator[tuple[int, list[int]]]:
            edges = [start, *(cut for cut in cuts if start < cut < stop), stop]
            return ((a, self._encode_plain(text[a:b], guard)) for a, b in pairwise(edges))

        position = 0
        for match in self._find_special(text):
            token, before, after = self._special[match[0]], text[position : match.start()], text[match.end() :]
            spaces = len(before) - len(before.rstrip()) if token["lstrip"] else 0  # the white space is its
            yield from plain(position, match.start() - spaces)
            yield match.start(), [token["id"]]
            position = match.end() + (len(after) - len(after.lstrip()) if token["rstrip"] else 0)
        yield from plain(position, len(text))

    def _encode_plain(self, text: str, guard: str) -> list[int]:
        text = text.replace(guard, "")
        return [int(i) for i in self._tokenizer.encode(text)] if text else []

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        if unknown := [each["role"] for each in messages if each["role"] not in self.roles]:
            raise UserError(f"a message cannot have the role '{unknown[0]}'", f"the roles are: {', '.join(self.roles)}")
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=None, **self._token_names
            )
        except Exception as error:  # a template may fail in any way; many refuse a system message
            raise _template_error(error) from None

    def _protect(self, content: str, guard: str) -> str:
        """Put `guard` into every name of a special token, and where the text could be a part of such a name."""
        body, names = content.strip(), self._special
        if not body or not names:
            return content
        begin = any(body.startswith(name[i:]) or body in name for name in names for i in range(1, len(name)))
        end = any(body.endswith(name[:i]) for name in names for i in range(1, len(name)))
        protected = re.sub(f"(?={'|'.join(map(re.escape, names))})(.)", rf"\1{guard}", body, flags=re.DOTALL)
        start = len(content) - len(content.lstrip())
        return f"{content[:start]}{guard * begin}{protected}{guard * end}{content[start + len(body) :]}"

    def _find_special(self, text: str) -> list[re.Match[str]]:
        """The special tokens that the template has written; of two that begin alike, the longer."""
        names = sorted(self._special, key=len, reverse=True)
        return list(re.finditer("|".join(map(re.escape, names)), text)) if names else []

    def _find_stop_tokens(self) -> tuple[int, ...]:
        """The eos_token, and the special token that the template writes after an answer."""
        found = {self._special[name]["id"] for name in (self._token_names.get(END_OF_TURN),) if name in self._special}
        answer = chr(NONCHARACTERS[0])
        try:
            text = self._render([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}], False)
        except UserError:
            return tuple(found)
        after = self._find_special(text.rpartition(answer)[2])
        return tuple(sorted(found | {self._special[match[0]]["id"] for match in after[:1]}))


def _special_tokens(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """The special tokens of a tokenizer.json, by name. One of a single character could not be told from text."""
    added = tokenizer.to_json()["added_tokens"]
    return {token["content"]: token for token in added if token["special"] and len(token["content"]) > 1}


def _unused_character(messages: Sequence[Message]) -> str:
    used = set().union(*(each["content"] for each in messages))
    return next(c for codes in (NONCHARACTERS, PRIVATE_USE) for c in map(chr, codes) if c not in used)


def _template_error(error: Exception) -> UserError:
    return UserError(
        f"the chat template of this model refuses the conversation: {error}",
        "many templates take no system message, or need questions and answers in turns",
    )


class _GenerationTag(Extension):
    """`{% generation %}` marks answers in some templates; it changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    return environment
