"""From tokens to the text that may be shown: whole characters, and nothing that belongs to a stop string.

text = TextStream(tokenizer, stop=("\\n\\n",))
text.add(token)     "so far\\n" → shows "so far", as the newline may be the first half of "\\n\\n"
text.stopped        True once a stop string is complete: the text ends before it
text.end()          what was held back, where the text ends without a stop string
"""

from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.streaming import TextStreamer


class StopStrings:
    """Finds the first stop string in text that comes in pieces. The result does not depend on where they are cut."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._held = ""  # the start of a stop string, perhaps
        self.found = False

    def add(self, text: str) -> str:
        """The text that is certainly before any stop string; nothing after one was found."""
        if self.found or not self._stop:
            return "" if self.found else text
        text = self._held + text
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text]
        if found:  # the one that is complete first; of two that end together, the longer
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        cut = self._first_possible_start(text)
        self._held = text[cut:]
        return text[:cut]

    def _first_possible_start(self, text: str) -> int:
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            rest = text[start:]
            if any(stop.startswith(rest) for stop in self._stop):
                return start
        return len(text)

    def end(self) -> str:
        """The held text, where nothing follows."""
        rest, self._held = self._held, ""
        return rest


class TextStream:
    """The text of one generation."""

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._characters = TextStreamer(tokenizer)
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> bool:
        return self._stop.found

    def add(self, token: int) -> str:
        """The text that may be shown now."""
        return self._stop.add(self._characters.add(token))

    def end(self) -> str:
        """The rest; bytes that never became a character are '�'."""
        return self._stop.add(self._characters.end()) + self._stop.end()
