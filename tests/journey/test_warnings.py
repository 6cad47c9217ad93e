"""What is possible and probably not wanted is done, and told in one line."""

import pytest
import torch

from fledge.core import device


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--train.dtype", "float16"),
            "this cpu has no float16 units, so it is imitated, slowly: --train.dtype float",
        ),
        (("--optim.warmup_steps", "3"), "still climbing at the end: 3 steps of warm-up, and 2 in all"),
    ],
)
def test_what_is_possible_and_unwise_is_done_and_told_in_one_line(home, capsys, monkeypatch, words, said) -> None:
    monkeypatch.setattr(device, "has_bf16_units", lambda _: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_fp16_supported", lambda: False)
    home.train("slow", "--train.steps", "2", "--optim.warmup_steps", "0", *words)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(lines) == 1
    assert said in lines[0]
