"""The student's loss on one micro-batch. Legend: H hidden, N response tokens, V vocab shard."""

from typing import Any

import torch
from torch import Tensor

from gkdplan.runtime.data.batch import MicroBatch
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.loss import jsd_linear, jsd_logits
from gkdplan.runtime.megatron.forward import output_head, response_hidden, stage_output
from gkdplan.runtime.teacher.payload import TeacherPayload
from gkdplan.vocab import Payload


def student_forward(
    distillation: Distillation,
    chunk: Any,
    batch: MicroBatch,
    payload: TeacherPayload | None,
    num_tokens: int,
) -> Tensor:
    """`student_loss` of the student's last chunk; of another one what it hands to the next."""
    if not chunk.post_process:
        return stage_output(chunk, batch.tokens_BS)
    assert payload is not None
    return student_loss(distillation, chunk, batch, payload, num_tokens)


def student_loss(
    distillation: Distillation,
    model: Any,
    batch: MicroBatch,
    payload: TeacherPayload,
    num_tokens: int,
) -> Tensor:
    """This micro-batch's part of the global token mean of the generalized JSD, a scalar.

    `num_tokens` is the global batch's count of response tokens; it is put into the weights, so
    that parts are summed over micro-batches and data ranks and never averaged again.
    """
    objective = distillation.objective
    hidden_NH = response_hidden(model, batch.tokens_BS, batch.predict_N)
    weights_N = torch.full(
        (len(batch.predict_N),), 1.0 / max(1, num_tokens), device=hidden_NH.device
    )
    head_VH = output_head(model)
    if objective.payload is Payload.LOGITS:
        return jsd_logits(
            hidden_NH @ head_VH.t(),
            payload.states,
            weights_N,
            beta=objective.beta,
            temperature=objective.loss_temperature,
            group=distillation.tensor_group,
            inplace=True,
            vocab_size=distillation.vocab_size,
        )
    return jsd_linear(
        hidden_NH,
        head_VH,
        payload.states,
        output_head(distillation.teacher[-1]),
        weights_N,
        beta=objective.beta,
        temperature=objective.loss_temperature,
        group=distillation.tensor_group,
        chunk_tokens=objective.chunk_tokens,
        vocab_size=distillation.vocab_size,
    )
