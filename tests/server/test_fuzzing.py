"""A small share of what `make soak` does."""

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("uvicorn")

from fledge.tokenizers.hf import HFTokenizer
from fuzzing import fuzz
from serving import END, TEXT, make_model, serving


def test_no_call_by_the_openapi_document_fails_the_server() -> None:
    with serving(make_model(tokenizer=HFTokenizer.train([TEXT], 280, END), queue=32)) as server:
        statuses = fuzz(server.url, 120)
        worker = server.models["tiny"].worker
        assert worker.occupied == worker.engine.active == 0
    assert statuses[200] > 24
    assert statuses[400] > 24
