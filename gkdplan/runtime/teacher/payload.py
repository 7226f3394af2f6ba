"""What the teacher leaves for the student's loss. Legend: N response tokens, V/t vocab shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gkdplan.runtime.data.batch import MicroBatch
from gkdplan.runtime.distillation import Distillation
from gkdplan.runtime.loss import TopK, bound_, likeliest
from gkdplan.runtime.megatron.forward import (
    logit_softcap,
    output_head,
    response_hidden,
    stage_output,
)
from gkdplan.runtime.megatron.lora import adapters_off
from gkdplan.runtime.megatron.schedule import run_schedule
from gkdplan.vocab import Payload


@dataclass(frozen=True, slots=True)
class TeacherPayload:
    """`states` are the teacher's final hidden states [N, H], its logits [N, V/t], or its likeliest
    ids [N, K] with the tail."""

    states: Tensor | TopK


def teacher_payloads(
    distillation: Distillation, micro_batches: Sequence[MicroBatch]
) -> list[TeacherPayload | None]:
    """Run the teacher on all micro-batches and keep what their response tokens need.

    A teacher that is the student's base runs without its adapters. Every stage of the teacher takes
    part; the payloads are on the last, on others there is None.
    """

    def forward_step(
        batches: Iterator[MicroBatch], chunk: Any
    ) -> tuple[Tensor, Callable[..., TeacherPayload]]:
        output = _forward(distillation.objective.payload, chunk, next(batches))
        return output, lambda states, *, non_loss_data: _keep(distillation, chunk, states)

    if not micro_batches:
        return []
    with torch.no_grad(), adapters_off(distillation.teacher):
        payloads = run_schedule(
            distillation.teacher,
            micro_batches,
            forward_step,
            shape=tuple(micro_batches[0].tokens_BS.shape),
            forward_only=True,
        )
    return payloads or [None] * len(micro_batches)


def _forward(payload: Payload, chunk: Any, batch: MicroBatch) -> Tensor:
    """What a chunk hands to the next one; of the last one what is kept."""
    if not chunk.post_process:
        return stage_output(chunk, batch.tokens_BS, sight=batch.sight)
    hidden_NH = response_hidden(chunk, batch.tokens_BS, batch.predict_N, sight=batch.sight)
    if payload is not Payload.LOGITS:
        return hidden_NH
    return bound_(hidden_NH @ output_head(chunk).t(), logit_softcap(chunk))


def _keep(distillation: Distillation, chunk: Any, states: Tensor) -> TeacherPayload:
    """What Megatron's schedule collects of the last chunk."""
    objective = distillation.objective
    if objective.payload is not Payload.TOP_K:
        return TeacherPayload(states)
    assert objective.top_k is not None
    known = likeliest(
        states,
        output_head(chunk),
        objective.top_k,
        temperature=objective.loss_temperature,
        chunk_tokens=objective.chunk_tokens,
        group=chunk.pg_collection.tp,
        vocab_size=distillation.vocab_size,
        softcap=logit_softcap(chunk),
    )
    return TeacherPayload(known)
