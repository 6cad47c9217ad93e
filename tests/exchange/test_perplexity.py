"""The perplexity that `fledge eval` measures, against transformers' on the exported model."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.evaluation.metrics import evaluate_split
from fledge.exchange import huggingface
from fledge.model.config import ModelConfig
from fledge.model.gpt import GPT
from fledge.tokenizers.base import byte_lengths
from fledge.tokenizers.hf import HFTokenizer

from .conftest import CLASSIC, MODERN, TEXT

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("config", [CLASSIC, MODERN], ids=["gpt2", "qwen3"])
def test_perplexity_equals_that_of_transformers(
    tmp_path: Path, make: Callable[[ModelConfig], GPT], tokenizer: HFTokenizer, config: ModelConfig
) -> None:
    model, ids = make(config), tokenizer.encode(TEXT)
    huggingface.write_hf_folder(tmp_path, model, tokenizer)
    theirs, nats = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval(), 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, config.context):
            window = torch.from_numpy(ids[start : start + config.context + 1].astype(np.int64))
            logits = theirs(window[:-1].unsqueeze(0)).logits[0]
            nats += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
    split = Split("val", [ids], [np.zeros(1, dtype=np.uint64)])
    found, _ = evaluate_split(model, split, byte_lengths(tokenizer), Machine("cpu", "float32"))
    assert found.tokens == len(ids) - 1 > 5 * config.context
    assert found.perplexity == pytest.approx(math.exp(nats / found.tokens), rel=1e-4)
