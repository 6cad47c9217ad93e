"""The engines that write texts for the studio: one for each checkpoint, with a thread of its own (web/worker.py).

    model = await engines.get(lambda: studio.load("hamlet@1000"))       # loads it where it is not there yet
    with model.in_use():                                                # until its worker has the job
        job = model.worker.submit([request], stream=True)

Those used last stay in memory; one that works is never dropped. A checkpoint that was written again gets another
engine, while the old one finishes its texts. The weights are computed with in float32, so that probabilities are those
of the microscope.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from fledge.recipes.load_engine import LoadedEngine, load_engine
from fledge.runs.methods import refuse_reward_model
from fledge.runs.run_folder import LoadedCheckpoint
from fledge.tokenizers.chat_template import ChatTemplate
from fledge.web.worker import Worker

SLOTS, QUEUE = 4, 16  # texts that a model writes at the same time, and texts that may wait
KEPT = 3  # engines


@dataclass(eq=False)
class TextModel:
    loaded: LoadedEngine
    source: LoadedCheckpoint
    template: ChatTemplate | None  # None: it was not trained on conversations
    worker: Worker
    users: int = 0  # that are about to submit a job

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """The engine is not dropped during the block."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

    @property
    def is_idle(self) -> bool:
        return not self.users and not self.worker.occupied


class Engines:
    def __init__(self) -> None:
        self._models: OrderedDict[int, TextModel] = OrderedDict()  # by the id of `source`, which it keeps alive
        self._loading = asyncio.Lock()

    async def get(self, load: Callable[[], LoadedCheckpoint]) -> TextModel:
        """The engine of the checkpoint that `load` gives. Called on the event loop."""
        async with self._loading:
            source = await run_in_threadpool(load)
            known = self._models.get(id(source))
            if known is None or not known.worker.is_healthy:
                model = await run_in_threadpool(make_text_model, source)
                model.worker.start()
                if known is not None:
                    await run_in_threadpool(known.worker.stop)
                self._models[id(source)] = model
            self._models.move_to_end(id(source))
            await self._drop_idle()
            return self._models[id(source)]

    async def _drop_idle(self) -> None:
        for key, model in list(self._models.items())[:-1]:
            if len(self._models) > KEPT and model.is_idle:
                del self._models[key]
                await run_in_threadpool(model.worker.stop)

    def close(self) -> None:
        for model in self._models.values():
            model.worker.stop()
        self._models.clear()


def make_text_model(source: LoadedCheckpoint) -> TextModel:
    refuse_reward_model(source.run)
    device = next(source.model.parameters()).device.type
    loaded = load_engine(source, slots=SLOTS, device=device, dtype="float32")
    return TextModel(loaded, source, source.run.chat_template(), Worker(loaded.engine, QUEUE))
