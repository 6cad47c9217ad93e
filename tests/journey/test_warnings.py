"""Settings that work but are probably not wanted give one warning."""

import pytest
import torch

from fledge.core import device


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--train.dtype", "float16"),
            "this cpu has no native float16 support and emulates it slowly: use --train.dtype float",
        ),
        (("--optim.warmup_steps", "3"), "the warmup of 3 steps does not end within train.steps = 2"),
    ],
)
def test_unwise_settings_give_one_warning(home, capsys, monkeypatch, warnings_in, words, said) -> None:
    monkeypatch.setattr(device, "has_bf16_units", lambda _: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    home.train("slow", "--train.steps", "2", "--optim.warmup_steps", "0", *words)
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("warning:") and "validation" not in line
    ]
    assert len(lines) == 1
    assert said in lines[0]
