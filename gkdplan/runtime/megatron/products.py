"""Products of rows with a weight as it lies, [rows, in] x [out, in] to [rows, out]."""

import torch
from torch import Tensor
from torch.nn.functional import linear


def multiply(input: Tensor, weight: Tensor, bias: Tensor | None = None, **_: object) -> Tensor:
    """input [..., in] times weight [out, in] transposed, plus bias [out], without a gradient.

    torch gives float32 products on a CPU to MKL, which reads the weight of a few rows slowly: 16
    rows by an output head two to three times slower than oneDNN does. Other keywords are those that
    Megatron's layers pass to what multiplies for them.
    """
    is_onednn_faster = input.dtype is torch.float32 and input.device.type == "cpu"
    if is_onednn_faster and torch.backends.mkldnn.is_available():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
        return product
    return linear(input, weight, bias)
