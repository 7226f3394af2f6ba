"""What the loss allocates: little beside its one gradient, and what the ledger says it does."""

import pytest
import torch
from loss_oracle import BETAS
from torch import Tensor

from gkdplan.planner.memory.fused import TORCH_ON_CPU
from gkdplan.planner.memory.loss import Loss
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.stage import whole_model
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.loss import jsd_linear, jsd_logits
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Payload

STATISTICS_BYTES = 64
"""At most, of a token: its index, its weight in float32 and what a row is summed up to."""


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("inplace", "limit"), [(False, 1.2), (True, 0.1)])
def test_stored_logits_cost_one_gradient_or_none(
    beta: float, temperature: float, inplace: bool, limit: float
) -> None:
    num_tokens, vocab = 512, 2000
    leaf = torch.randn(num_tokens, vocab, requires_grad=True)
    student, teacher = leaf * 1.0, torch.randn(num_tokens, vocab)
    weights = torch.ones(num_tokens)
    live = LiveBytes(torch.device("cpu"))
    live.adopt([student, teacher, leaf, weights])
    buffer = num_tokens * vocab * 4
    with live:
        live.mark_phase()
        before = live.current_bytes
        loss = jsd_logits(
            student, teacher, weights, beta=beta, temperature=temperature, inplace=inplace
        )
        (gradient,) = torch.autograd.grad(3.0 * loss, student)
        assert (live.peak_bytes - before) / buffer < limit
        assert gradient.shape == student.shape


def model_of(hidden: int, vocab: int, dtype: torch.dtype) -> RankModel:
    shape = ModelShape(
        family="llama",
        hidden_size=hidden,
        num_layers=1,
        num_attention_heads=4,
        num_kv_heads=4,
        head_dim=hidden // 4,
        ffn_hidden_size=hidden,
        vocab_size=vocab,
        max_position_embeddings=64,
        norm_eps=1e-5,
        rope_theta=1e4,
        tied_embeddings=False,
        qkv_bias=False,
        qk_norm=False,
    )
    name = {torch.float32: Dtype.FP32, torch.bfloat16: Dtype.BF16}[dtype]
    return RankModel(
        shape,
        name,
        vocab,
        tensor=1,
        sequence=False,
        fused=TORCH_ON_CPU,
        stage=whole_model(shape.num_layers),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("num_tokens", "vocab", "padded", "hidden", "teacher_hidden", "chunk"),
    [
        (100, 5000, 5000, 64, 64, 32),  # the divergence's buffers are the peak
        (64, 20000, 20128, 32, 128, 64),
        (500, 2000, 2048, 512, 512, 256),  # the hidden states of a chunk are
        (300, 1000, 1000, 256, 1024, 256),  # the teacher's are
        (40, 3000, 3000, 1024, 64, 16),  # the head's gradient is, in bf16
        (7, 3000, 3000, 64, 64, 7),
    ],
)
def test_the_ledger_knows_what_the_loss_of_hidden_states_allocates(
    num_tokens: int,
    vocab: int,
    padded: int,
    hidden: int,
    teacher_hidden: int,
    chunk: int,
    beta: float,
    dtype: torch.dtype,
) -> None:
    student_hidden, student_head, teacher_states, teacher_head = (
        torch.randn(shape, dtype=dtype)
        for shape in (
            (num_tokens, hidden),
            (padded, hidden),
            (num_tokens, teacher_hidden),
            (padded, teacher_hidden),
        )
    )
    inputs = [student_hidden.requires_grad_(), student_head.requires_grad_()]
    inputs += [teacher_states, teacher_head, torch.ones(num_tokens)]
    planned = Loss(
        student=model_of(hidden, padded, dtype),
        teacher=model_of(teacher_hidden, padded, dtype),
        payload=Payload.HIDDEN,
        backend="gloo",
        chunk_tokens=chunk,
        num_tokens=num_tokens,
        vocab_size=vocab,
    )
    peak, kept = measured(inputs, beta=beta, chunk_tokens=chunk, vocab_size=vocab)
    assert (
        0
        <= peak - planned.tile_bytes() - planned.gradient_bytes()
        <= (STATISTICS_BYTES * num_tokens + 256)
    )
    width = student_head.element_size()
    assert kept == num_tokens * hidden * width + padded * hidden * width


def measured(inputs: list[Tensor], **options: float) -> tuple[int, int]:
    """Peak bytes of the forward above its inputs, and what is left for the backward."""
    live = LiveBytes(torch.device("cpu"))
    live.adopt(inputs)
    with live:
        live.mark_phase()
        before = live.current_bytes
        loss = jsd_linear(*inputs, **options)
        return live.peak_bytes - before, live.current_bytes - before - loss.nbytes
