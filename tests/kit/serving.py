"""A server on a free port of this machine, in a thread, with small random models.

with serving({"tiny": make_model()}) as server:
    server.url; server.client(); server.models["tiny"].worker.engine.active
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import torch
from torch import Tensor

from fledge.core.device import Machine
from fledge.inference.decoder_reference import ReferenceDecoder
from fledge.inference.engine import Engine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.server.app import make_app
from fledge.server.models import ServedModel
from fledge.server.token_text import TokenText
from fledge.tokenizers.base import Tokenizer
from fledge.tokenizers.char import CharTokenizer
from fledge.tokenizers.chat_template import find_chat_template
from fledge.web.access import Access
from fledge.web.serving import Server, bind, url_of
from fledge.web.worker import Worker
from tiny import WORDS

TEXT = " ".join(WORDS) + ".\n"
END = "<|endoftext|>"
SECONDS = 30.0  # until a wait is given up
CERTIFICATES = ssl.create_default_context()  # made once: it takes longer than a request


class HeldDecoder(ReferenceDecoder):
    """The reference decoder; while `hold` is cleared, no step is computed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go = threading.Event()
        self.go.set()

    def decode(self, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
        assert self.go.wait(SECONDS)
        return super().decode(tokens, lengths)


def make_model(
    name: str = "tiny", *, slots: int = 4, queue: int = 8, tokenizer: Tokenizer | None = None, context: int = 64
) -> ServedModel:
    tokenizer = tokenizer or CharTokenizer.train([TEXT], special=END)
    config = ModelConfig(n_layer=2, n_head=2, n_embd=32, context=context, vocab_size=tokenizer.vocab_size)
    model = build(config, 1)
    with torch.no_grad():  # clear leads: rounding changes no greedy text
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    engine = Engine(HeldDecoder(model, slots, Machine("cpu", "float32")), tokenizer)
    template = find_chat_template(tokenizer, {})
    return ServedModel(name, tokenizer, context, template, Worker(engine, queue), TokenText(tokenizer))


@dataclass(frozen=True)
class Running:
    url: str
    port: int
    models: dict[str, ServedModel]
    server: Server
    thread: threading.Thread

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json=body, timeout=SECONDS, verify=CERTIFICATES)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def decoder(self, name: str = "tiny") -> Any:
        return self.models[name].worker.engine.decoder


@contextlib.contextmanager
def serving(*models: ServedModel, access: Access | None = None) -> Iterator[Running]:
    listener, ready = bind("127.0.0.1", 0), threading.Event()
    by_name = {model.name: model for model in models}
    server = Server(make_app(by_name, access or Access(), log=False), ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert ready.wait(SECONDS)
        yield Running(url_of(listener, "127.0.0.1"), listener.getsockname()[1], by_name, server, thread)
    finally:
        for decoder in (model.worker.engine.decoder for model in models):
            assert isinstance(decoder, HeldDecoder)
            decoder.go.set()
        server.stop()
        thread.join(SECONDS)
        assert not thread.is_alive(), "the server did not stop"


def request_bytes(path: str, body: bytes, *headers: str) -> bytes:
    """A request as it is on the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
