"""What the teacher leaves for the student's loss. Legend: N response tokens, V/t vocab shard."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.data.batch import MicroBatch
from gkdplan.runtime.megatron.forward import output_head, response_hidden
from gkdplan.runtime.session import Session
from gkdplan.vocab import Payload


@dataclass(frozen=True, slots=True)
class TeacherPayload:
    """`states` are the teacher's final hidden states [N, H], or its logits [N, V/t]."""

    states: Tensor


def teacher_payload(session: Session, batch: MicroBatch) -> TeacherPayload:
    """Run the teacher on one micro-batch and keep what its response tokens need."""
    with torch.no_grad():
        hidden_NH = response_hidden(session.teacher, batch.tokens_BS, batch.predict_N)
        if session.plan.objective.payload is Payload.LOGITS:
            return TeacherPayload(hidden_NH @ output_head(session.teacher).t())
    return TeacherPayload(hidden_NH)
