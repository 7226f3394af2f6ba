"""What the teacher leaves for the student's loss. Legend: N response tokens, V/t vocab shard."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.data.batch import MicroBatch
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.megatron.forward import output_head, response_hidden
from gkdplan.vocab import Payload


@dataclass(frozen=True, slots=True)
class TeacherPayload:
    """`states` are the teacher's final hidden states [N, H], or its logits [N, V/t]."""

    states: Tensor


def teacher_payload(distillation: Distillation, batch: MicroBatch) -> TeacherPayload:
    """Run the teacher on one micro-batch and keep what its response tokens need."""
    with torch.no_grad():
        hidden_NH = response_hidden(distillation.teacher, batch.tokens_BS, batch.predict_N)
        if distillation.objective.payload is Payload.LOGITS:
            return TeacherPayload(hidden_NH @ output_head(distillation.teacher).t())
    return TeacherPayload(hidden_NH)
