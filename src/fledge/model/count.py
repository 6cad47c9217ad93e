"""What a model costs, by formula: parameters and floating-point operations. No torch, so it answers at once.

Each formula is checked against the real tensors, and against torch's own flop counter, in the tests.
"""

from fledge.model.config import ModelConfig


def parameters(config: ModelConfig) -> int:
    """Every trained number."""
    assert config.vocab_size is not None
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.hidden_width
    norm = C * (1 + config.norm_bias)
    attention = (C + config.qkv_bias) * (H + 2 * K) * D + (H * D + config.output_bias) * C + 2 * D * config.qk_norm
    inputs = 2 if config.mlp == "swiglu" else 1
    mlp = inputs * (C + config.mlp_bias) * F + (F + config.mlp_bias) * C
    places = config.context * C if config.positions == "learned" else 0
    tables = config.vocab_size * (C * (1 if config.tied else 2) + config.head_bias)
    return tables + places + config.n_layer * (attention + mlp + 2 * norm) + norm


def matrix_parameters(config: ModelConfig) -> int:
    """The numbers that take part in matrix products: those that cost two operations a token each."""
    assert config.vocab_size is not None
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.hidden_width
    inputs = 2 if config.mlp == "swiglu" else 1
    block = C * (H + 2 * K) * D + H * D * C + (inputs + 1) * C * F
    return config.n_layer * block + config.vocab_size * C


def forward_flops(config: ModelConfig) -> int:
    """Operations for one sequence of a whole context, forward, the attention matrix counted whole."""
    T, H, D = config.context, config.n_head, config.head_width
    attention = 4 * T * T * H * D  # scores and mixing: two products of 2·T·T·D for each head
    return 2 * T * matrix_parameters(config) + config.n_layer * attention


def training_flops_per_token(config: ModelConfig) -> float:
    """Forward once, backward twice as much."""
    return 3 * forward_flops(config) / config.context
