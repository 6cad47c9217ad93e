"""One engine and the thread that runs it; requests come from the event loop, and chunks go back to it.

    worker = Worker(engine, queue=512);  worker.start()          # on the event loop
    job = worker.submit(requests, stream=True)                   # QueueFull where there is no room
    try:
        async for chunks in job.chunks(): …                      # [(index of the request, chunk), …]
    finally:
        worker.close(job)                                        # frees the slots of what still runs

The loop is woken once per step of the engine, not once per token, and the engine is at most two steps ahead of it: so
the server answers other requests while hundreds of texts are generated. Chunks that a client has not read yet wait in
its job; their number is limited by the context, and the job occupies its place in the queue until it is closed.
"""

import asyncio
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from fledge.core.progress import notice
from fledge.inference.engine import Engine
from fledge.inference.request import Chunk, Generation, Request

STEPS_AHEAD = 2
POLL_SECONDS = 0.5
MAX_FAILURES = 3  # steps in a row
Update = tuple["Job", int, list[Chunk]]


class QueueFull(Exception):
    """More requests wait than the queue may hold."""


class Job:
    """The texts that one call of a client asked for. All but `generations` belongs to the event loop."""

    def __init__(self, requests: Sequence[Request], *, stream: bool) -> None:
        self.requests = requests
        self.generations: list[Generation] = []
        self._stream = stream
        self._unfinished = len(requests)
        self._arrived: list[tuple[int, Chunk]] = []
        self._ready = asyncio.Event()

    @property
    def finished(self) -> bool:
        return self._unfinished == 0

    async def chunks(self, idle_seconds: float | None = None) -> AsyncIterator[list[tuple[int, Chunk]]]:
        """All chunks since the last time; an empty list after `idle_seconds` without any."""
        while not self.finished or self._arrived:
            try:
                async with asyncio.timeout(idle_seconds):
                    await self._ready.wait()
            except TimeoutError:
                pass
            self._ready.clear()
            arrived, self._arrived = self._arrived, []
            yield arrived

    async def wait(self) -> None:
        """Until all texts are finished."""
        async for _ in self.chunks():
            pass

    def add(self, index: int, chunks: Sequence[Chunk]) -> None:
        self._arrived += ((index, chunk) for chunk in chunks)
        self._unfinished -= chunks[-1].finish_reason is not None
        if self._stream or self.finished:
            self._ready.set()


class Worker:
    def __init__(self, engine: Engine, queue: int) -> None:
        self.engine = engine
        self.capacity = engine.slots + queue  # texts that may run and wait
        self.occupied = 0
        self.steps = 0
        self.failures = 0  # steps in a row that raised
        self._jobs: list[Job] = []  # of the thread
        self._calls: deque[Callable[[], None]] = deque()  # to be made by the thread
        self._wake = threading.Event()
        self._ahead = threading.Semaphore(STEPS_AHEAD)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()

    @property
    def is_healthy(self) -> bool:
        """False where the thread has ended, or the engine fails again and again, as after an error of a GPU."""
        return self._thread.is_alive() and self.failures < MAX_FAILURES

    def submit(self, requests: Sequence[Request], *, stream: bool) -> Job:
        """UserError where the engine cannot serve a request."""
        for request in requests:
            self.engine.check(request)
        if self.occupied + len(requests) > self.capacity:
            raise QueueFull
        job = Job(requests, stream=stream)
        self.occupied += len(requests)
        self._call(lambda: self._begin(job))
        return job

    def close(self, job: Job) -> None:
        self.occupied -= len(job.requests)
        if not job.finished:
            self._call(lambda: self._cancel(job))

    def _call(self, function: Callable[[], None]) -> None:
        self._calls.append(function)
        self._wake.set()

    # What follows runs in the thread, except `_deliver`.

    def _run(self) -> None:
        while not self._stopping:
            while self._calls:
                self._calls.popleft()()
            if self._jobs:
                self._step()
            else:
                self._wake.wait()
                self._wake.clear()

    def _begin(self, job: Job) -> None:
        job.generations += map(self.engine.submit, job.requests)
        self._jobs.append(job)

    def _cancel(self, job: Job) -> None:
        for generation in job.generations:
            self.engine.cancel(generation)
        if job in self._jobs:
            self._jobs.remove(job)

    def _step(self) -> None:
        try:
            self.engine.step()
            self.failures = 0
        except Exception:  # the engine has ended the requests that it could not serve
            self.failures += 1
            notice(traceback.format_exc().rstrip())
        self.steps += 1
        updates: list[Update] = []
        for job in self._jobs:
            for index, generation in enumerate(job.generations):
                if generation.chunks:
                    updates.append((job, index, generation.take()))
        if not updates:
            return
        done = {id(job) for job, _, _ in updates if all(each.finish_reason for each in job.generations)}
        self._jobs = [job for job in self._jobs if id(job) not in done]
        while not self._ahead.acquire(timeout=POLL_SECONDS):
            if self._stopping:
                return
        self._loop.call_soon_threadsafe(self._deliver, updates)

    def _deliver(self, updates: Sequence[Update]) -> None:
        self._ahead.release()
        for job, index, chunks in updates:
            job.add(index, chunks)
