"""Matrix products of a decoder: one function for each way to hold a weight. x [N, in] → [N, out]

plain          F.linear
packed         the weight in oneDNN's own layout: on a CPU up to twice as fast, and takes a second copy of the weights
weight-only    weights in 8 bits with a scale for each output, multiplied in bfloat16
per-row        the same weights; each token's input in 8 bits, too, with a scale of its own

A maker gets a weight [out, in] in the dtype that multiplies (float32 for 8 bits), and a bias in the same dtype. It, or
the first product, raises where the processor or torch has no such operator. The function casts its input, and its
output has whatever dtype is natural. A row never depends on the other rows: torch's own dynamic quantization takes
one scale for all of them. Fusing activations or residual additions is not worth it: oneDNN's fused GELU is slower than
torch's own on a CPU, and an addition takes a microsecond.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor, Tensor | None], Linear]

LARGEST_INT8 = 127
INT8_BLOCK = 32
SMALLEST = 1e-12  # scales are at least this: a row may be zero


def make_plain(weight: Tensor, bias: Tensor | None) -> Linear:
    dtype = weight.dtype
    return lambda x: F.linear(x.to(dtype), weight, bias)


def make_packed(weight: Tensor, bias: Tensor | None) -> Linear:
    dtype, multiply = weight.dtype, torch.ops.mkldnn._linear_pointwise.default
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
    return lambda x: multiply(x.to(dtype), packed, bias, "none", [], "")


def int8_scales(weight: Tensor) -> Tensor:
    """For each output."""
    return weight.abs().amax(1).clamp(min=SMALLEST) / LARGEST_INT8


def make_weight_only(weight: Tensor, bias: Tensor | None) -> Linear:
    """Torch's operator reads 16 inputs at a time, also behind the end of a row: so the rows are padded."""
    scales, pad = int8_scales(weight), -weight.shape[1] % INT8_BLOCK
    numbers = F.pad((weight / scales[:, None]).round().to(torch.int8), (0, pad))
    scales = scales.bfloat16()

    def product(x: Tensor) -> Tensor:
        x = x.bfloat16()
        y = torch._weight_int8pack_mm(F.pad(x, (0, pad)) if pad else x, numbers, scales)
        return y if bias is None else y + bias

    return product


def make_per_row(weight: Tensor, bias: Tensor | None) -> Linear:
    """FBGEMM quantizes its input with a fixed scale, so each row is divided by its largest number first."""
    if not torch.cpu._is_vnni_supported():
        raise RuntimeError("without VNNI instructions, sums of products of 8 bits overflow")
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch plans to replace this kind of tensor
            zeros = torch.zeros(len(weight), dtype=torch.long)
            numbers = torch.quantize_per_channel(weight, int8_scales(weight).double(), zeros, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(numbers, None)
    finally:
        torch.backends.quantized.engine = engine
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default

    def product(x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True).clamp_(min=SMALLEST)
        y = multiply(x / largest, 1 / LARGEST_INT8, LARGEST_INT8 + 1, packed)
        return y.mul_(largest) if bias is None else torch.addcmul(bias, y, largest)

    return product


LINEARS: dict[str, MakeLinear] = {"plain": make_plain, "packed": make_packed}
INT8_LINEARS: dict[str, MakeLinear] = {"per-row": make_per_row, "weight-only": make_weight_only}
