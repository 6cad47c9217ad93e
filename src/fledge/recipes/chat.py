"""Talk with the model of a run."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

from fledge.core.errors import UserError
from fledge.inference.conversation import Conversation
from fledge.inference.request import FinishReason, PastContext, Request, Sampling
from fledge.recipes.generate import DEFAULT_SAMPLING, check_counts, refuse_failed
from fledge.recipes.load_engine import LoadedEngine, load_engine


class Chat:
    """A conversation and the engine that answers. The engine keeps what it has read: a turn costs its new tokens."""

    def __init__(
        self, loaded: LoadedEngine, tokens: int, sampling: Sampling, stop: Sequence[str], past_context: PastContext
    ) -> None:
        self.run, self.step, self.choice = loaded.run.name, loaded.step, loaded.choice
        self.template = loaded.run.chat_template()
        self.conversation = Conversation(loaded.tokenizer, self.template, loaded.model.context, tokens)
        self.sampling = sampling
        self.finish_reason: FinishReason | None = None  # of the last answer
        self._engine, self._tokens, self._stop, self._answers = loaded.engine, tokens, tuple(stop), 0
        self._past_context = past_context

    def ask(self, text: str) -> Generator[str]:
        """The answer, piece by piece; often an empty one, so that the caller can stop. What was generated until then
        stays in the conversation. Each answer has a seed of its own: seed, seed+1, …"""
        ids = self.conversation.ask(text)
        request = Request(
            tuple(ids),
            self._tokens,
            replace(self.sampling, seed=self.sampling.seed + self._answers),
            stop=self._stop,
            stop_tokens=() if self.template is None else self.template.stop_tokens,
            when_full=self._past_context if self.template is None else "stop",
        )
        self._answers += 1
        generation = self._engine.submit(request)
        try:
            while generation.finish_reason is None:
                self._engine.step()
                yield "".join(chunk.text for chunk in generation.take())
            refuse_failed(generation)
        except UserError:
            self.conversation.take_back()
            raise
        finally:
            self._engine.cancel(generation)
            self.finish_reason = generation.finish_reason
            if generation.error is None:
                self.conversation.answer(generation.text)


def open_chat(
    run: str | None,
    *,
    runs: Path = Path("runs"),
    system: str = "",
    tokens: int = 200,
    sampling: Sampling = DEFAULT_SAMPLING,
    stop: Sequence[str] = (),
    past_context: PastContext = "reread",
    device: str = "auto",
    dtype: str = "auto",
) -> Chat:
    """run: a name, or None for the latest run. tokens: of an answer, at most. system: what the model is told first.

    past_context: how the text of a model without a chat template goes on when the context is full.
    """
    check_counts(tokens, sampling.seed, n=1, prompts=1)
    chat = Chat(load_engine(run, runs, device=device, dtype=dtype), tokens, sampling, stop, past_context)
    chat.conversation.system = system
    return chat
