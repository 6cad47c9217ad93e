"""A conversation: what was said, and the token ids after which the next answer comes.

A model with a chat template gets the messages as it saw them in training. One without continues the text so far: all
that was written and generated, each message on a new line.
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
        self.dropped = 0  # how many of the first messages no longer fit into the context
        self.template = template
        self._tokenizer = tokenizer
        self._room = context - min(answer_tokens, context // 2)

    def ask(self, text: str) -> list[int]:
        """Add a message of the user → the ids of the conversation. The oldest messages are dropped until it fits."""
        messages, dropped = [*self.messages, {"role": "user", "content": text}], self.dropped
        ids = self._encode(messages[dropped:])
        while len(ids) > self._room and dropped < len(messages) - 1:
            dropped += 2  # a question and its answer
            ids = self._encode(messages[dropped:])
        if len(ids) > self._room and self.template is not None:
            raise UserError(
                f"the message has {len(ids):,} tokens, and the context of this model has room for {self._room:,}",
                "write a shorter one; /system counts too",
            )
        self.messages, self.dropped = messages, dropped
        return ids[-self._room :]

    def answer(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """Forget the last message: it got no answer."""
        self.messages.pop()

    def reset(self) -> None:
        self.messages, self.dropped = [], 0

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self.template is not None:
            return self.template.encode([*system, *messages])
        return list(prompt_ids(self._tokenizer, text_so_far([*system, *messages])))


def text_so_far(messages: Sequence[Message]) -> str:
    """For a model that only continues text: an empty message of the user lets it go on where it stopped."""
    text = ""
    for message in messages:
        starts_line = message["role"] == "user" and text and message["content"]
        text += "\n" * bool(starts_line) + message["content"]
    return text
