"""What /metrics shows, in Prometheus's format."""

from collections.abc import Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fledge.inference.request import Generation
from fledge.server.models import ServedModel

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._registry = CollectorRegistry()
        self._responses = Counter(
            "fledge_http_responses", "Responses by path and status", ["path", "status"], registry=self._registry
        )
        self._prompt = self._counter("fledge_prompt_tokens", "Tokens of prompts")
        self._generated = self._counter("fledge_generated_tokens", "Generated tokens")
        self._texts = Counter(
            "fledge_texts", "Texts by finish reason", ["model", "finish_reason"], registry=self._registry
        )
        self._seconds = self._histogram("fledge_request_seconds", "From the request to the end of its answer")
        self._first = self._histogram("fledge_first_token_seconds", "From a streaming request to its first token")
        for name, help in {
            "slots": "Texts that can run",
            "running": "Texts that run",
            "waiting": "Texts that wait",
        }.items():
            gauge = Gauge(f"fledge_{name}", f"{help} at the same time", ["model"], registry=self._registry)
            for model in models.values():
                attribute = "active" if name == "running" else name
                gauge.labels(model.name).set_function(partial(getattr, model.worker.engine, attribute))

    def _counter(self, name: str, help: str) -> Counter:
        return Counter(name, help, ["model"], registry=self._registry)

    def _histogram(self, name: str, help: str) -> Histogram:
        return Histogram(name, help, ["model"], buckets=SECONDS, registry=self._registry)

    def response(self, path: str, status: int) -> None:
        self._responses.labels(path, str(status)).inc()

    def first_token(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def count(self, model: str, usage: Mapping[str, int], generations: Sequence[Generation], seconds: float) -> None:
        """A call has ended."""
        self._prompt.labels(model).inc(usage["prompt_tokens"])
        self._generated.labels(model).inc(usage["completion_tokens"])
        self._seconds.labels(model).observe(seconds)
        for generation in generations:
            self._texts.labels(model, generation.finish_reason or "cancelled").inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
