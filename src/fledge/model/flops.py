"""What a model costs, by formula: parameters, FLOPs, bytes.

The module imports without torch, so that the command line starts fast; only the memory of blocked attention needs it.

    C  width of the model    H  query heads       D  width of a head          T  context
    F  width of the MLP      K  key/value heads   V  size of the vocabulary

The tests compare each formula with the real tensors, with torch's FLOP counter, or with what autograd keeps.
"""

from fledge.model.config import ModelConfig

FLOAT32, BFLOAT16 = 4, 2  # bytes per element

LOSS_CHUNK_TOKENS = 1024  # tokens whose logits the chunked loss holds at a time
LARGE_VOCABULARY = 4096  # below this, the chunked loss saves too little to be worth it

# Per parameter in training, at least: itself, its gradient, and the two moments of AdamW, four bytes each.
TRAINING_BYTES = 16


def parameter_count(config: ModelConfig) -> int:
    """All of them, frozen ones too."""
    positions = config.context * config.n_embd if config.positions == "learned" else 0
    bigram = min(config.bigram_rows or 0, (config.bigram_vocab or _vocabulary(config)) ** 2) * config.n_embd
    return (
        _embedding_parameters(config)
        + bigram
        + positions
        + non_embedding_parameters(config)
        + config.value_head * config.n_embd
    )


def trained_parameters(config: ModelConfig) -> int:
    """With LoRA the adapters, the value head and, if so set, embedding and head; else all."""
    if config.lora is None:
        return parameter_count(config)
    embeddings = _embedding_parameters(config) if config.lora_embeddings else 0
    return embeddings + adapter_parameters(config) + config.value_head * config.n_embd


def _embedding_parameters(config: ModelConfig) -> int:
    """Embedding and head."""
    return _vocabulary(config) * (config.n_embd * (1 if config.tied else 2) + config.head_bias)


def adapter_parameters(config: ModelConfig) -> int:
    """LoRA: A [rank, inputs] and B [outputs, rank] of every linear layer of the blocks."""
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.mlp_hidden_width
    inputs_and_outputs = (3 * C + (H + 2 * K) * D) + (H * D + C) + (_mlp_inputs(config) + 1) * (C + F)
    return config.n_layer * (config.lora or 0) * inputs_and_outputs


def non_embedding_parameters(config: ModelConfig) -> int:
    """The blocks and the final norm: without embedding, bigram table, positions and heads."""
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.mlp_hidden_width
    norm = C * (1 + config.norm_bias)
    attention = (C + config.qkv_bias) * (H + 2 * K) * D + (H * D + config.output_bias) * C + 2 * D * config.qk_norm
    mlp = _mlp_inputs(config) * (C + config.mlp_bias) * F + (F + config.mlp_bias) * C
    return config.n_layer * (attention + mlp + 2 * norm) + norm * config.final_norm + adapter_parameters(config)


def matrix_parameters(config: ModelConfig) -> int:
    """The parameters in matrix products: each costs two FLOPs per token."""
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.mlp_hidden_width
    block = C * (H + 2 * K) * D + H * D * C + (_mlp_inputs(config) + 1) * C * F
    return config.n_layer * block + adapter_parameters(config) + _vocabulary(config) * C


def forward_flops(config: ModelConfig) -> int:
    """FLOPs of the forward pass per token that attends to a whole context, or to a whole window.

    As usual, attention counts the whole square of scores, not only the half below the diagonal.
    """
    attention = 4 * config.attention_span * config.n_head * config.head_width  # per token attended to: q·k, weights·v
    return 2 * matrix_parameters(config) + config.n_layer * attention


def training_flops(config: ModelConfig) -> int:
    """FLOPs per token in training: the backward pass, for weights and inputs, costs twice the forward pass. Frozen
    weights have no gradient."""
    frozen = 0 if config.lora is None else matrix_parameters(config) - adapter_parameters(config)
    if config.lora_embeddings and frozen:
        frozen -= _vocabulary(config) * config.n_embd
    return 3 * forward_flops(config) - 2 * frozen


def cache_bytes_per_token(config: ModelConfig, itemsize: int = BFLOAT16) -> int:
    """A key and a value in every block; `itemsize` is the bytes per element."""
    return config.n_layer * 2 * config.kv_heads * config.head_width * itemsize


def cache_bytes(config: ModelConfig, itemsize: int = BFLOAT16) -> int:
    """The cache of one row: a whole context, also where a window reads less of it."""
    return config.context * cache_bytes_per_token(config, itemsize)


def logits_bytes(config: ModelConfig, tokens: int, itemsize: int = FLOAT32) -> int:
    """Peak memory for the logits of some tokens: themselves, their softmax in float32, their gradient."""
    return tokens * _vocabulary(config) * (2 * itemsize + FLOAT32)


def chunk_bytes(config: ModelConfig, itemsize: int = FLOAT32) -> int:
    """Memory of the chunked loss for a batch of any size: the logits of one chunk, and the gradient of the head."""
    gradient = FLOAT32 * _vocabulary(config) * (config.n_embd + LOSS_CHUNK_TOKENS)
    return logits_bytes(config, LOSS_CHUNK_TOKENS, itemsize) + gradient


def activation_bytes(
    config: ModelConfig, batch: int, itemsize: int = FLOAT32, *, chunked: bool = False, checkpointed: bool = False
) -> int:
    """What autograd keeps for the backward pass over `batch` whole contexts, including the loss.

    `itemsize` is that of matrix products; the residual stream and the norms stay float32. Left out: dropout masks, and
    everything below 2 %. Compiled code keeps less, as it recomputes cheap operations.
    """
    C, D, H, K = config.n_embd, config.head_width, config.n_head, config.kv_heads
    norm = FLOAT32 * C * (2 if config.norm == "rmsnorm" else 1)  # its input; rmsnorm: also its unscaled result
    shared = itemsize == FLOAT32  # under autocast every matrix product makes its own copy of its input
    projections = itemsize * C * (1 if shared else 3) + FLOAT32 * 2 * (H + K) * D * config.qk_norm
    outputs = 2 if config.positions == "rotary" else 1  # rotary changes the memory layout: the output is copied back
    attention = itemsize * ((1 + outputs) * H + 2 * K) * D  # queries, outputs, keys, values
    if config.attention in ("readable", "blocked"):
        # keys and values repeated for every head, and the attention weights
        attention = itemsize * H * (4 * D + round(_weights_per_token(config)))
    kept = MLP_KEEPS[config.mlp] + (config.mlp == "relu" and bool(config.dropout_at("mlp")))  # before and after dropout
    mlp = itemsize * (C * (1 if shared else _mlp_inputs(config)) + kept * config.mlp_hidden_width)
    adapters = itemsize * (config.lora or 0) * (5 + _mlp_inputs(config))  # A x of every linear layer
    block = 2 * norm + projections + attention + mlp + adapters
    logits = _vocabulary(config) * (FLOAT32 + itemsize * bool(config.softcap))
    end = norm * config.final_norm + (
        FLOAT32 * C if chunked else itemsize * C + logits
    )  # the chunked loss keeps the gradient only
    if checkpointed:  # the input of each block, and everything of the block that is being recomputed
        return batch * config.context * (config.n_layer * FLOAT32 * C + block + end)
    return batch * config.context * (config.n_layer * block + end)


def _weights_per_token(config: ModelConfig) -> float:
    """Attention weights per head and token that are kept for the backward pass."""
    T = config.context
    if config.attention == "readable":
        return T
    from fledge.model.attention import visible_blocks

    return sum((stop - start) * (last - first) for start, stop, first, last in visible_blocks(T, T, config.window)) / T


# Tensors of the hidden width that an MLP keeps for the backward pass.
MLP_KEEPS = {"gelu": 2, "gelu_tanh": 2, "relu": 1, "relu2": 2, "swiglu": 4}


def _mlp_inputs(config: ModelConfig) -> int:
    """Projections to the hidden width: swiglu has a gate beside `up`."""
    return 2 if config.mlp == "swiglu" else 1


def _vocabulary(config: ModelConfig) -> int:
    assert config.vocab_size is not None, "the cost of a model depends on its vocabulary"
    return config.vocab_size
