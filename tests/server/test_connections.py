"""Clients that leave, do not read, or come in too great a number; and the end of the server."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

pytest.importorskip("uvicorn")

from fledge.tokenizers.char import CharTokenizer
from fledge.web import event_stream
from fledge.web import serving as serving_module
from fledge.web.access import Access
from serving import END, SECONDS, TEXT, Running, make_model, request_bytes, serving
from tiny import wait_until

END_ID = CharTokenizer.train([TEXT], special=END).end_of_text
LONG: dict[str, Any] = {"prompt": "the ", "max_tokens": 60, "logit_bias": {str(END_ID): -100}}
STREAM = json.dumps({**LONG, "stream": True}).encode()
PATH = "/v1/completions"


@pytest.fixture
def server() -> Iterator[Running]:
    with serving(make_model(slots=2, queue=2)) as running:
        yield running


def is_idle(server: Running) -> bool:
    worker = server.models["tiny"].worker
    return worker.occupied == worker.engine.active == worker.engine.waiting == 0


def start_stream(server: Running) -> socket.socket:
    """A stream whose first bytes have arrived."""
    connection = server.connect()
    connection.sendall(request_bytes(PATH, STREAM))
    assert connection.recv(15) == b"HTTP/1.1 200 OK"
    return connection


def hold(server: Running) -> None:
    server.decoder().go.clear()


def release(server: Running) -> None:
    server.decoder().go.set()


def test_queue_is_bounded(server: Running) -> None:
    hold(server)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(server.post, "completions", **LONG) for _ in range(4)]
        wait_until(lambda: server.models["tiny"].worker.occupied == 4)
        refused = server.post("completions", **LONG)
        streamed = server.post("completions", **LONG, stream=True)
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
        release(server)
        assert [each.result().status_code for each in running] == [200] * 4
    for answer in (refused, streamed):
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["error"]["type"] == "rate_limit_error"
    wait_until(lambda: is_idle(server))
    assert server.post("completions", **LONG).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("end", ["close", "half-close", "reset"])
def test_a_disconnect_frees_the_slot(server: Running, stream: bool, end: str) -> None:
    hold(server)
    connection = server.connect()
    connection.sendall(request_bytes(PATH, json.dumps({**LONG, "stream": stream}).encode()))
    wait_until(lambda: server.models["tiny"].worker.engine.active == 1)
    if end == "half-close":
        connection.shutdown(socket.SHUT_WR)
    else:
        if end == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()
    wait_until(lambda: server.models["tiny"].worker.occupied == 0)
    release(server)
    wait_until(lambda: is_idle(server))
    connection.close()
    assert server.models["tiny"].worker.engine.counters.generated_tokens < 30  # it was cancelled


def test_many_disconnects_leave_nothing(server: Running) -> None:
    for _ in range(40):
        with server.connect() as connection:
            connection.sendall(request_bytes(PATH, STREAM))
    # Requests of closed connections may still arrive while the server looks idle, and fill its queue for a moment.
    wait_until(lambda: server.post("completions", **LONG).status_code == 200)
    wait_until(lambda: is_idle(server))
    assert server.post("completions", **LONG).json()["usage"]["completion_tokens"] == 60


def test_half_a_request_does_no_harm(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(request_bytes(PATH, STREAM)[:-5])
        assert server.post("completions", **LONG).status_code == 200
    with server.connect() as connection:
        connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        assert b" 400 " in connection.recv(100)
    wait_until(lambda: is_idle(server))  # a stream is closed after its last byte


PART = b"POST /v1/completions HTTP/1.1\r\nHost: local"
WHOLE = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(("before", "sent"), [(b"", b""), (b"", PART), (WHOLE, PART)])
def test_headers_that_do_not_arrive_close_the_connection(
    server: Running, before: bytes, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "HEADER_SECONDS", 0.5)
    with server.connect() as connection:
        connection.sendall(before)
        while before and not connection.recv(1000).endswith(b"}"):  # of the answer
            pass
        connection.sendall(sent)
        assert connection.recv(1000) == b""


def test_a_slow_reader_blocks_no_other_and_is_cut_off(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "SEND_SECONDS", 0.5)
    many = {**LONG, "prompt": ["the ", "a "], "stream": True, "logprobs": 20}
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request_bytes(PATH, json.dumps(many).encode()))
        wait_until(lambda: server.models["tiny"].worker.engine.counters.generated_tokens >= 120)
        assert server.models["tiny"].worker.engine.active == 0  # its texts are finished, whether it reads or not
        assert server.post("completions", **LONG).status_code == 200
        wait_until(lambda: is_idle(server))


def test_a_failing_request_harms_no_other(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = server.models["tiny"].worker.engine
    prefill = engine.decoder.prefill

    def fail_at_three(slot: int, start: int, ids: Any) -> Any:
        if len(ids) == 3:
            raise ArithmeticError("three tokens")
        return prefill(slot, start, ids)

    monkeypatch.setattr(engine.decoder, "prefill", fail_at_three)
    with ThreadPoolExecutor(3) as pool:
        good = [pool.submit(server.post, "completions", **LONG) for _ in range(2)]
        bad = pool.submit(server.post, "completions", **{**LONG, "prompt": "dog"})
    assert [each.result().status_code for each in good] == [200, 200]
    assert bad.result().status_code == 500
    assert bad.result().json()["error"]["type"] == "server_error"
    streamed = server.post("completions", **{**LONG, "prompt": "dog", "stream": True}).text
    assert '"type":"server_error"' in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    wait_until(lambda: is_idle(server))  # a stream is closed after its last byte


def test_an_engine_whose_step_fails_goes_on(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, decode = server.decoder(), server.decoder().decode
    monkeypatch.setattr(decoder, "decode", lambda *_: 1 / 0)
    assert server.post("completions", **LONG).status_code == 500
    monkeypatch.setattr(decoder, "decode", decode)
    assert server.post("completions", **LONG).status_code == 200


def test_an_engine_that_fails_again_and_again_is_reported(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise RuntimeError("the device is lost")

    engine = server.models["tiny"].worker.engine
    with monkeypatch.context() as broken:
        broken.setattr(engine, "step", fail)
        with server.connect() as connection:
            connection.sendall(request_bytes(PATH, STREAM))
            wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    wait_until(lambda: is_idle(server))
    assert server.post("completions", **LONG).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_stopping_finishes_what_runs_and_accepts_no_more(server: Running) -> None:
    hold(server)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "completions", **LONG)
        stream = start_stream(server)
        wait_until(lambda: server.models["tiny"].worker.occupied == 2)
        server.server.stop()
        wait_until(lambda: refuses_connections(server))
        release(server)
        assert running.result().status_code == 200
    text = b"".join(iter(lambda: stream.recv(1 << 16), b""))
    assert b"data: [DONE]" in text
    stream.close()
    server.thread.join(SECONDS)
    assert not server.thread.is_alive()


def refuses_connections(server: Running) -> bool:
    try:
        server.connect().close()
    except ConnectionError:
        return True
    return False


def test_streams_of_many_clients_are_complete() -> None:
    """More than there are slots; each gets what it would get alone."""
    with serving(make_model(slots=4, queue=60)) as server, ThreadPoolExecutor(16) as pool:
        bodies = [
            {**LONG, "prompt": "dog "[: 1 + n % 4], "seed": n, "max_tokens": 30, "stream": True} for n in range(16)
        ]
        texts = [each.text for each in pool.map(lambda body: server.post("completions", **body), bodies)]
        for body, text in zip(bodies, texts, strict=True):
            events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
            streamed = "".join(event["choices"][0]["text"] for event in events)
            assert streamed == server.post("completions", **{**body, "stream": False}).json()["choices"][0]["text"]


def test_token_host_and_origin() -> None:
    access = Access(
        token="a-token-of-16-characters", hosts=frozenset({"gpu.example"}), origins=frozenset({"http://ui.example"})
    )
    bearer = {"Authorization": f"Bearer {access.token}"}
    with serving(make_model(), access=access) as server:

        def status(path: str = "/v1/models", **headers: str) -> int:
            return httpx.get(
                server.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()}
            ).status_code

        assert status("/health") == 200
        assert status() == status("/metrics") == status("/openapi.json") == 401
        assert status(Authorization="Bearer wrong") == status(Authorization=f"Basic {access.token}") == 401
        assert status(**bearer) == 200
        assert status(**bearer, Host="gpu.example:80") == 200
        assert status(**bearer, Host="evil.example") == status("/health", Host="evil.example") == 403
        assert status(**bearer, Origin="http://evil.example") == status(**bearer, Origin="null") == 403
        allowed = httpx.get(f"{server.url}/v1/models", headers={**bearer, "Origin": "http://ui.example"})
        assert allowed.headers["access-control-allow-origin"] == "http://ui.example"
        preflight = {
            "Origin": "http://ui.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        assert httpx.options(f"{server.url}{PATH}", headers=preflight).status_code == 200
        assert (
            httpx.options(f"{server.url}{PATH}", headers={**preflight, "Origin": "http://evil.example"}).status_code
            == 400
        )


def test_metrics_count_tokens_and_statuses(server: Running) -> None:
    server.post("completions", **LONG)
    server.post("completions", prompt=[])
    found = httpx.get(f"{server.url}/metrics")
    assert found.headers["content-type"].startswith("text/plain")
    for line in (
        'fledge_generated_tokens_total{model="tiny"} 60.0',
        'fledge_prompt_tokens_total{model="tiny"} 4.0',
        'fledge_http_responses_total{path="/v1/completions",status="400"} 1.0',
        'fledge_texts_total{finish_reason="length",model="tiny"} 1.0',
        'fledge_slots{model="tiny"} 2.0',
        'fledge_running{model="tiny"} 0.0',
    ):
        assert line in found.text, line
