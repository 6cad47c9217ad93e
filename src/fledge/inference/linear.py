"""Matrix products of a decoder: one function for each way to hold a weight. x [N, in] → [N, out]

plain     F.linear
packed    the weight in oneDNN's own layout: on a CPU up to twice as fast, and takes a second copy of the weights

A maker gets a weight [out, in] in the dtype that multiplies, and a bias in the same dtype. The function casts its input
to that dtype, and its output has whatever dtype is natural. Fusing the activation or the residual addition is not worth
it: on a CPU, oneDNN's fused GELU is slower than torch's own, and an addition takes a microsecond.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor, Tensor | None], Linear]


def make_plain(weight: Tensor, bias: Tensor | None) -> Linear:
    dtype = weight.dtype
    return lambda x: F.linear(x.to(dtype), weight, bias)


def make_packed(weight: Tensor, bias: Tensor | None) -> Linear:
    """Raises where this build of torch, or this processor, has no such operator."""
    dtype, multiply = weight.dtype, torch.ops.mkldnn._linear_pointwise.default
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
    return lambda x: multiply(x.to(dtype), packed, bias, "none", [], "")


LINEARS: dict[str, MakeLinear] = {"plain": make_plain, "packed": make_packed}
