"""A conversation: what was said, and the token ids after which the next answer comes.

A model with a chat template gets the messages as it saw them in training. One without continues the text so far: all
that was written and generated, each message on a new line. Where that is longer than the context, whole messages are
dropped in the first case, single tokens in the second, always the oldest.
"""

from collections.abc import Sequence

from fledge.core.errors import UserError
from fledge.inference.generate import prompt_ids
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.chat_template import ChatTemplate, Message


class Conversation:
    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, context: int, answer_tokens: int) -> None:
        """answer_tokens: room that is kept free for an answer, at most half of the context."""
        self.messages: list[Message] = []  # all, without the system message
        self.system = ""
        self.dropped = 0  # how many of the first messages no longer fit into the context, or not as a whole
        self.template = template
        self._tokenizer = tokenizer
        self._room = context - min(answer_tokens, context // 2)

    def ask(self, text: str) -> list[int]:
        """Add a message of the user → the ids of what fits of the conversation."""
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        fit = self._newest_text if self.template is None else self._newest_messages
        ids, self.dropped = fit(messages, self.dropped)
        self.messages = messages
        return ids

    def answer(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Forget the last message: it got no answer."""
        self.messages.pop()
        self.dropped = min(self.dropped, len(self.messages))

    def reset(self) -> None:
        self.messages, self.dropped = [], 0

    def _newest_messages(self, messages: list[Message], dropped: int) -> tuple[list[int], int]:
        """→ ids, and how many messages are dropped: questions together with their answers."""
        assert self.template is not None
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        ids = self.template.encode([*system, *messages[dropped:]])
        while len(ids) > self._room and dropped < len(messages) - 1:
            dropped += 2
            ids = self.template.encode([*system, *messages[dropped:]])
        if len(ids) > self._room:
            raise UserError(
                f"the message has {len(ids):,} tokens, and the context of this model has room for {self._room:,}",
                "write a shorter one; /system counts too",
            )
        return ids, dropped

    def _newest_text(self, messages: list[Message], dropped: int) -> tuple[list[int], int]:
        """→ ids, and how many messages are dropped, the last of them not as a whole. The system message stays."""
        system = self._ids(f"{self.system}\n") if self.system else []
        room = max(self._room - len(system), 1)
        while len(ids := self._ids(text_so_far(messages[dropped:]))) > room:
            dropped += 1
        if dropped > 0:
            ids = self._ids(text_so_far(messages[dropped - 1 :]))[-room:]
        return [*system, *ids][-self._room :] or list(prompt_ids(self._tokenizer, "")), dropped

    def _ids(self, text: str) -> list[int]:
        return [int(i) for i in self._tokenizer.encode(text)]


def text_so_far(messages: Sequence[Message]) -> str:
    """For a model that only continues text: an empty message of the user lets it go on where it stopped."""
    text = ""
    for message in messages:
        starts_line = message["role"] == "user" and text and message["content"]
        text += "\n" * bool(starts_line) + message["content"]
    return text
