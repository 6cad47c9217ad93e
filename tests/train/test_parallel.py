"""A compiler that fails is left, whatever it has to say for itself."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from fledge.base.machine import Machine
from fledge.model.config import ModelConfig
from fledge.model.init import build
from fledge.train.parallel import wrap

CPU = Machine("cpu", "float32")
IDS = torch.zeros(2, 8, dtype=torch.long)


@pytest.mark.parametrize(
    ("words", "told"), [("no such pass\nmore", "no such pass"), ("", "TorchDynamoException")], ids=str
)
def test_the_plain_model_takes_over_and_the_reason_is_one_line(
    words: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, said = [], []

    def broken(inputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(inputs)
        raise TorchDynamoException(words)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    model = build(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=11), 0)
    compiled, plain = wrap(model, CPU, compile=True, warn=said.append), wrap(model, CPU, compile=False)
    assert [float(compiled(IDS, IDS).detach()) for _ in range(2)] == [float(plain(IDS, IDS).detach())] * 2
    assert len(calls) == 1
    assert [f"({told})" in line and "\n" not in line for line in said] == [True]
