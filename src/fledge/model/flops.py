"""What a model costs, by formula: parameters, floating-point operations, bytes. No torch, so it answers at once.

    C  width of the model    H  query heads       D  width of a head          T  context
    F  width of the MLP      K  key/value heads   V  size of the vocabulary

Each formula is checked in the tests: against the real tensors, against torch's own flop counter, and against what
autograd really keeps. Says nothing of time.
"""

from fledge.model.config import ModelConfig

FLOAT32, BFLOAT16 = 4, 2  # bytes of a number

CHUNK = 1024  # tokens whose logits the chunked loss holds at a time
LARGE_VOCABULARY = 4096  # from here on the chunked loss is worth a thought

# Of a parameter in training: itself, its gradient, two memories of the optimiser, four bytes each. The least it takes.
TRAINING_BYTES = 16


def parameters(config: ModelConfig) -> int:
    """Every trained number."""
    tables = _vocabulary(config) * (config.n_embd * (1 if config.tied else 2) + config.head_bias)
    places = config.context * config.n_embd if config.positions == "learned" else 0
    pairs = min(config.bigram_rows or 0, _vocabulary(config) ** 2) * config.n_embd
    return tables + pairs + places + non_embedding_parameters(config)


def non_embedding_parameters(config: ModelConfig) -> int:
    """The blocks and the last norm: without what grows with the vocabulary (embedding, head) or the context."""
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.hidden_width
    norm = C * (1 + config.norm_bias)
    attention = (C + config.qkv_bias) * (H + 2 * K) * D + (H * D + config.output_bias) * C + 2 * D * config.qk_norm
    mlp = _mlp_inputs(config) * (C + config.mlp_bias) * F + (F + config.mlp_bias) * C
    return config.n_layer * (attention + mlp + 2 * norm) + norm


def matrix_parameters(config: ModelConfig) -> int:
    """The numbers that take part in matrix products: those that cost two operations a token each."""
    C, D, H, K, F = config.n_embd, config.head_width, config.n_head, config.kv_heads, config.hidden_width
    block = C * (H + 2 * K) * D + H * D * C + (_mlp_inputs(config) + 1) * C * F
    return config.n_layer * block + _vocabulary(config) * C


def forward_flops(config: ModelConfig) -> int:
    """Operations for one token, forward, when it sees as much as it can: a whole context, or a whole window.

    So the matrix of scores counts whole, not only the half below its diagonal: that is the usual way.
    """
    attention = 4 * config.reach * config.n_head * config.head_width  # two products for each token seen: score, mix
    return 2 * matrix_parameters(config) + config.n_layer * attention


def training_flops(config: ModelConfig) -> int:
    """Operations for one token in training: forward once, and backward, towards weights and inputs, twice as much."""
    return 3 * forward_flops(config)


def cache_bytes_per_token(config: ModelConfig, number: int = BFLOAT16) -> int:
    """A key and a value in every block; `number` is how many bytes one number takes."""
    return config.n_layer * 2 * config.kv_heads * config.head_width * number


def cache_bytes(config: ModelConfig, number: int = BFLOAT16) -> int:
    """The cache of one row: a whole context, also where a window reads less of it."""
    return config.context * cache_bytes_per_token(config, number)


def logits_bytes(config: ModelConfig, tokens: int, number: int = FLOAT32) -> int:
    """What the logits of so many tokens take at the peak: themselves, their softmax in float32, their gradient."""
    return tokens * _vocabulary(config) * (2 * number + FLOAT32)


def chunk_bytes(config: ModelConfig, number: int = FLOAT32) -> int:
    """What the chunked loss takes, however large the batch: one chunk's logits, and the gradient of the head."""
    return logits_bytes(config, CHUNK, number) + FLOAT32 * _vocabulary(config) * (config.n_embd + CHUNK)


def activation_bytes(
    config: ModelConfig, batch: int, number: int = FLOAT32, *, chunked: bool = False, checkpointed: bool = False
) -> int:
    """What a forward pass over `batch` whole contexts keeps until the backward pass has used it, the loss included.

    `number` is the precision of matrix products; what runs from block to block, and through norms, stays float32.
    Left out: dropout's masks, and what is smaller than a fiftieth. Compiled code keeps less, as it computes cheap
    things again.
    """
    C, D, H, K = config.n_embd, config.head_width, config.n_head, config.kv_heads
    norm = (
        FLOAT32 * C * (2 if config.norm == "rmsnorm" else 1)
    )  # its input; rmsnorm keeps its result before scaling too
    once = number == FLOAT32  # in lower precision every matrix product makes its own copy of its input
    asking = number * C * (1 if once else 3) + FLOAT32 * 2 * (H + K) * D * config.qk_norm
    answers = 2 if config.positions == "rotary" else 1  # what was turned lies in memory another way, and is copied back
    mixing = number * ((1 + answers) * H + 2 * K) * D  # queries, answers, keys, values
    if config.attention in ("readable", "blocked"):
        mixing = (
            number * H * (4 * D + round(_weights_per_token(config)))
        )  # keys and values for every head, and the weights
    thinking = number * (C * (1 if once else _mlp_inputs(config)) + MLP_KEEPS[config.mlp] * config.hidden_width)
    block = 2 * norm + asking + mixing + thinking
    scores = _vocabulary(config) * (FLOAT32 + number * bool(config.softcap))
    end = norm + (FLOAT32 * C if chunked else number * C + scores)  # the chunked loss keeps the gradient
    if checkpointed:  # what went into each block, and all of the one that is being computed again
        return batch * config.context * (config.n_layer * FLOAT32 * C + block + end)
    return batch * config.context * (config.n_layer * block + end)


def _weights_per_token(config: ModelConfig) -> float:
    """Attention weights of one head that are kept for the backward pass, for each token of a whole context."""
    T = config.context
    if config.attention == "readable":
        return T
    from fledge.model.attention import visible_blocks

    return sum((stop - start) * (last - first) for start, stop, first, last in visible_blocks(T, T, config.window)) / T


# How many tensors of the MLP's width wait for the backward pass: what went into each function, and what came out.
MLP_KEEPS = {"gelu": 2, "gelu_tanh": 2, "relu": 1, "relu2": 2, "swiglu": 4}


def _mlp_inputs(config: ModelConfig) -> int:
    """How many matrices widen: swiglu has a gate beside its way up."""
    return 2 if config.mlp == "swiglu" else 1


def _vocabulary(config: ModelConfig) -> int:
    assert config.vocab_size is not None, "the vocabulary must be known before a model is counted"
    return config.vocab_size
