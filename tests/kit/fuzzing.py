"""Calls of the server by its own OpenAPI document: no answer may be a 5xx, and each must have the shape it declares.

    fuzz(url, cases=200, start=1)  → how many calls had which status

A third of the calls of each route breaks the schema, a third follows it, and a third follows it with values that a
small model can serve.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

SECONDS = 60.0
NAMES = ["not_a_server_error", "response_schema_conformance", "content_type_conformance", "status_code_conformance"]
OTHERS = 5  # calls of each route without a body
SMALL = 6  # tokens


def fuzz(url: str, cases: int, start: int = 1) -> Counter[int]:
    """`cases` calls in all, of the routes with a body; the same ones for the same `start`."""
    load_all_checks()
    statuses: Counter[int] = Counter()
    operations = [each.ok() for each in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    posts = [each for each in operations if each.method == "post"]
    for operation in operations:
        if operation not in posts:
            run_cases(operation, GenerationMode.POSITIVE, OTHERS, start, statuses)
            continue
        share = cases // (3 * len(posts))
        run_cases(operation, GenerationMode.NEGATIVE, share, start, statuses)
        run_cases(operation, GenerationMode.POSITIVE, share, start, statuses)
        run_cases(operation, GenerationMode.POSITIVE, share, start, statuses, tame)
    return statuses


def run_cases(
    operation: Any,
    mode: GenerationMode,
    count: int,
    start: int,
    statuses: Counter[int],
    change: Callable[[Any], Any] = lambda body: body,
) -> None:
    checks = CHECKS.get_by_names(NAMES)

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: schemathesis.Case) -> None:
        case.body = change(case.body)
        response = case.call(timeout=SECONDS)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=checks)

    call()


def tame(body: Any) -> Any:
    """The same, with values that fit: what the schema cannot say."""
    if not isinstance(body, dict):
        return body
    for name in ("model", "suffix", "best_of", "logit_bias", "tools"):
        body.pop(name, None)
    for name in ("max_tokens", "max_completion_tokens", "n"):
        if isinstance(body.get(name), int | float):
            body[name] = int(body[name]) % SMALL + 1
    if not body.get("stream"):
        body.pop("stream_options", None)
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    if "prompt" in body:
        body["prompt"] = tame_prompt(body["prompt"])
    for message in body.get("messages", ()):
        message["content"] = "the fox"
    return body


def tame_prompt(prompt: Any) -> Any:
    if isinstance(prompt, list):
        return [tame_prompt(each) for each in prompt[:3]] or "a"
    return int(prompt) % 100 if isinstance(prompt, int | float) else prompt[:8] or "a"
