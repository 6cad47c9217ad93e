"""On one GPU: the metrics of a split are those of a CPU."""

import numpy as np
import pytest
import torch

from fledge.core.device import Machine
from fledge.datasets.shards import Split
from fledge.evaluation.metrics import evaluate_split
from fledge.model.config import ModelConfig
from fledge.model.init import build

CONFIG = ModelConfig(n_layer=2, n_head=4, n_embd=64, context=64, vocab_size=5000)
IDS = np.random.default_rng(0).integers(0, 5000, 3000).astype(np.uint16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 5e-2)])
def test_metrics_equal_those_of_a_cpu(dtype: str, tolerance: float) -> None:
    model = build(CONFIG, 0)
    with torch.no_grad():
        model.head.weight.mul_(4)
    split, lengths = Split("val", [IDS], [np.array([0, 900])]), np.ones(5000, dtype=np.int64)
    cpu, cpu_sums = evaluate_split(model, split, lengths, Machine("cpu", "float32"))
    gpu, gpu_sums = evaluate_split(model.to("cuda"), split, lengths, Machine("cuda", dtype))  # type: ignore[arg-type]
    assert gpu.loss == pytest.approx(cpu.loss, rel=tolerance)
    assert gpu.calibration_error == pytest.approx(cpu.calibration_error, abs=tolerance)
    assert abs(gpu.top5_accuracy - cpu.top5_accuracy) < 0.01
    assert gpu_sums.nats == pytest.approx(cpu_sums.nats, rel=10 * tolerance)
