"""The matrix products around the loss, in float32 (float64) whatever the operands' dtype.

CUDA multiplies bf16 operands into float32. CPU has no such product: there the head is widened some
rows at a time, so that no whole copy of it exists.

Legend: C tokens of one chunk, H hidden size, V vocabulary entries of this rank, v some of them.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

WIDENED_ROWS = 4096
"""Rows of a bf16 head that exist in float32 at one time."""


def logits_(logits_CV: Tensor, hidden_CH: Tensor, head_VH: Tensor) -> Tensor:
    """hidden head^T, written into `logits_CV`."""
    if _multiplies_mixed(head_VH, logits_CV.dtype):
        torch.mm(hidden_CH, head_VH.t(), out_dtype=logits_CV.dtype, out=logits_CV)
        return logits_CV
    hidden_CH = hidden_CH.to(logits_CV.dtype)
    for rows, part_vH in _widened(head_VH, logits_CV.dtype):
        torch.mm(hidden_CH, part_vH.t(), out=logits_CV[:, rows])
    return logits_CV


def hidden_gradient(gradient_CV: Tensor, head_VH: Tensor) -> Tensor:
    """gradient head [C, H] in the gradient's dtype."""
    if _multiplies_mixed(head_VH, gradient_CV.dtype):
        product: Tensor = torch.mm(
            gradient_CV.to(head_VH.dtype), head_VH, out_dtype=gradient_CV.dtype
        )
        return product
    product_CH = gradient_CV.new_zeros((len(gradient_CV), head_VH.shape[1]))
    for rows, part_vH in _widened(head_VH, gradient_CV.dtype):
        product_CH.addmm_(gradient_CV[:, rows], part_vH)
    return product_CH


def add_head_gradient_(total_VH: Tensor, gradient_CV: Tensor, hidden_CH: Tensor) -> None:
    """total += gradient^T hidden, in the dtype of the total."""
    if _multiplies_mixed(hidden_CH, total_VH.dtype):
        narrow_VC = gradient_CV.to(hidden_CH.dtype).t()
        torch.addmm(total_VH, narrow_VC, hidden_CH, out_dtype=total_VH.dtype, out=total_VH)
    else:
        total_VH.addmm_(gradient_CV.t(), hidden_CH.to(total_VH.dtype))


def _multiplies_mixed(operand: Tensor, result_dtype: torch.dtype) -> bool:
    return bool(operand.is_cuda) and operand.dtype != result_dtype


def _widened(head_VH: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The head, whole where it has the dtype, else part by part in one widened buffer."""
    if head_VH.dtype == dtype:
        yield slice(None), head_VH
        return
    buffer_vH = head_VH.new_empty((min(WIDENED_ROWS, len(head_VH)), head_VH.shape[1]), dtype=dtype)
    for start in range(0, len(head_VH), WIDENED_ROWS):
        part_vH = head_VH[start : start + WIDENED_ROWS]
        rows = slice(start, start + len(part_vH))
        yield rows, buffer_vH[: len(part_vH)].copy_(part_vH)
