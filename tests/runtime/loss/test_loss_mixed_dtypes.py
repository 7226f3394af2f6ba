"""`teacher.dtype` may differ from `student.dtype`: each side keeps its own, the loss is float32."""

import pytest
import torch
from loss_oracle import BETAS, as_stored, loss_and_gradient, relative_error
from measured_sums import divergence_and_cross_entropy
from torch import Tensor

from gkdplan.runtime.loss import jsd_linear, jsd_logits
from gkdplan.vocab import LossBackend

pytestmark = pytest.mark.usefixtures("every_backend")

NUM_TOKENS, HIDDEN, TEACHER_HIDDEN, VOCAB = 11, 12, 20, 61
DTYPES = [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
"""Relative: float32 arithmetic, or one rounding of a gradient to the 8 bits of bf16."""


def draw(student: torch.dtype, teacher: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Hidden states and head of the student (with gradient) and of the teacher, and weights."""
    generator = torch.Generator().manual_seed(3)
    shapes = [(NUM_TOKENS, HIDDEN), (VOCAB, HIDDEN)]
    shapes += [(NUM_TOKENS, TEACHER_HIDDEN), (VOCAB, TEACHER_HIDDEN)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    own = [t.to(student).requires_grad_() for t in tensors[:2]]
    return own + [t.to(teacher) for t in tensors[2:]], torch.full((NUM_TOKENS,), 1 / NUM_TOKENS)


@pytest.mark.parametrize(("student", "teacher"), DTYPES)
@pytest.mark.parametrize("beta", BETAS)
def test_from_hidden_states(student: torch.dtype, teacher: torch.dtype, beta: float) -> None:
    tensors, weights = draw(student, teacher)
    loss = jsd_linear(*tensors, weights, beta=beta, chunk_tokens=4)
    loss.backward()
    hidden, head, teacher_hidden, teacher_head = (t.detach().double() for t in tensors)
    expected, gradient_NV = loss_and_gradient(
        hidden @ head.t(), teacher_hidden @ teacher_head.t(), weights, beta, 1.0
    )
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for tensor, gradient in zip(
        tensors, (gradient_NV @ head, gradient_NV.t() @ hidden), strict=False
    ):
        assert tensor.grad.dtype == student
        assert relative_error(tensor.grad, gradient) < ROUNDING[student]
    divergence, _ = divergence_and_cross_entropy(
        *(t.detach() for t in tensors), torch.arange(NUM_TOKENS), beta=beta, chunk_tokens=4
    )
    assert float(divergence) / NUM_TOKENS == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("student", "teacher"), DTYPES)
@pytest.mark.parametrize("beta", BETAS)
def test_from_stored_logits(
    student: torch.dtype, teacher: torch.dtype, beta: float, every_backend: LossBackend
) -> None:
    (hidden, head, teacher_hidden, teacher_head), weights = draw(student, teacher)
    student_NV = (hidden @ head.t()).detach().requires_grad_()
    teacher_NV = teacher_hidden @ teacher_head.t()
    loss = jsd_logits(student_NV, teacher_NV, weights, beta=beta)
    loss.backward()
    expected, gradient = loss_and_gradient(student_NV, teacher_NV, weights, beta, 1.0)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert student_NV.grad.dtype == student
    stored = as_stored(gradient, student, every_backend)
    assert relative_error(student_NV.grad, stored) < ROUNDING[student]
