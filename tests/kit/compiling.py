"""What a test compiles in a process of its own."""

import os

SHAPE = {"n_layer": 1, "n_head": 1, "n_embd": 8, "context": 8, "vocab_size": 16}


def compile_small_model(cache: str) -> tuple[int, int]:
    """Compute the loss of a small model, compiled as training does it: how many graphs `cache` lacked, and had."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    import torch
    from torch._dynamo.utils import counters

    from fledge.batches.loader import Batch
    from fledge.core.device import Machine
    from fledge.model.config import ModelConfig
    from fledge.model.init import build
    from fledge.training.parallel import use_deterministic_algorithms, wrap

    use_deterministic_algorithms()
    ids = torch.zeros(1, 8, dtype=torch.long)
    with torch.no_grad():
        wrap(build(ModelConfig(**SHAPE), 0), Machine("cpu", "float32"), compile=True)(Batch(ids, ids))
    found = counters["inductor"]
    return found["fxgraph_cache_miss"], found["fxgraph_cache_hit"]
