"""The student's loss on one micro-batch. Legend: H hidden, N response tokens, V vocab shard."""

from typing import Any

import torch
from torch import Tensor

from gkdplan.runtime.data.batch import MicroBatch
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.loss import TopK, bounded, jsd_linear, jsd_logits, top_k_linear
from gkdplan.runtime.megatron.forward import (
    logit_softcap,
    output_head,
    response_hidden,
    stage_output,
)
from gkdplan.runtime.teacher.payload import TeacherPayload
from gkdplan.vocab import Payload


def student_forward(
    distillation: Distillation,
    chunk: Any,
    batch: MicroBatch,
    payload: TeacherPayload | None,
    num_tokens: int,
    sft_alpha: float,
) -> Tensor:
    """`student_loss` of the student's last chunk; of another one what it hands to the next."""
    if not chunk.post_process:
        return stage_output(chunk, batch.tokens_BS, padding_of(chunk, batch), sight=batch.sight)
    assert payload is not None
    return student_loss(distillation, chunk, batch, payload, num_tokens, sft_alpha)


def student_loss(
    distillation: Distillation,
    model: Any,
    batch: MicroBatch,
    payload: TeacherPayload,
    num_tokens: int,
    sft_alpha: float,
) -> Tensor:
    """This micro-batch's part of the global token mean of the loss, a scalar: the generalized JSD,
    and `sft_alpha` times the cross-entropy of the batch's labels.

    `num_tokens` is the global batch's count of response tokens; it is put into the weights, so
    that parts are summed over micro-batches and data ranks and never averaged again.
    """
    objective = distillation.objective
    padding_BS = padding_of(model, batch)
    hidden_NH = response_hidden(
        model, batch.tokens_BS, batch.predict_N, padding_BS, sight=batch.sight
    )
    weights_N = torch.full(
        (len(batch.predict_N),), 1.0 / max(1, num_tokens), device=hidden_NH.device
    )
    head_VH = output_head(model)
    options: dict[str, Any] = {
        "beta": objective.beta,
        "temperature": objective.loss_temperature,
        "labels": batch.labels_N,
        "sft_alpha": sft_alpha,
        "group": distillation.tensor_group,
        "vocab_size": distillation.vocab_size,
        "backend": objective.loss_backend,
    }
    softcap = logit_softcap(model)
    states, chunk_tokens = payload.states, objective.chunk_tokens
    if isinstance(states, TopK):
        return top_k_linear(
            hidden_NH,
            head_VH,
            states,
            weights_N,
            chunk_tokens=chunk_tokens,
            student_softcap=softcap,
            **options,
        )
    if objective.payload is Payload.LOGITS:
        logits_NV = bounded(hidden_NH @ head_VH.t(), softcap)
        return jsd_logits(logits_NV, states, weights_N, inplace=True, **options)
    return jsd_linear(
        hidden_NH,
        head_VH,
        states,
        distillation.teacher_head,
        weights_N,
        chunk_tokens=chunk_tokens,
        student_softcap=softcap,
        teacher_softcap=distillation.teacher_softcap,
        **options,
    )


def padding_of(chunk: Any, batch: MicroBatch) -> Tensor | None:
    """Where there is padding, for routers that balance the load of tokens; others need not know."""
    return batch.padding if chunk.config.moe_aux_loss_coeff else None
