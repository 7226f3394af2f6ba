"""Held-out divergence from the teacher and cross-entropy on the dataset's responses."""

from collections.abc import Iterator

import torch
import torch.distributed as dist

from gkdplan.runtime.data.batch import MicroBatch, collate
from gkdplan.runtime.loss import divergence_and_cross_entropy
from gkdplan.runtime.megatron.forward import output_head, response_hidden
from gkdplan.runtime.session import Session


def evaluate(session: Session, step: int) -> None:
    """Log the student's mean JSD and cross-entropy (nats a token) over the held-out rows."""
    session.phases.enter("evaluate")
    totals = torch.zeros(3, dtype=torch.float64, device=session.mesh.device)
    with torch.no_grad(), session.residency.everything_on_device():
        for batch in _batches(session):
            totals += _sums(session, batch)
    dist.all_reduce(totals, group=session.mesh.data_group)
    divergence, cross_entropy, num_tokens = totals.tolist()
    session.metrics.log_eval(
        step=step,
        jsd=divergence / max(1.0, num_tokens),
        cross_entropy=cross_entropy / max(1.0, num_tokens),
        num_tokens=int(num_tokens),
    )


def _batches(session: Session) -> Iterator[MicroBatch]:
    mesh, size = session.mesh, session.plan.batch.micro_rows
    rows = [
        (example.prompt, example.response)
        for example in session.held_out.examples[mesh.data_rank :: mesh.data_size]
        if example.response
    ]
    for i in range(0, len(rows), size):
        yield collate(rows[i : i + size], session.chat.pad_id, session.row_share).to(mesh.device)


def _sums(session: Session, batch: MicroBatch) -> torch.Tensor:
    """[sum of divergences, sum of cross-entropies, number of tokens] of one batch."""
    objective = session.plan.objective
    divergence, cross_entropy = divergence_and_cross_entropy(
        response_hidden(session.student, batch.tokens_BS, batch.predict_N),
        output_head(session.student),
        response_hidden(session.teacher, batch.tokens_BS, batch.predict_N),
        output_head(session.teacher),
        batch.labels_N,
        beta=objective.beta,
        temperature=objective.loss_temperature,
        group=session.mesh.tensor_group,
        chunk_tokens=objective.chunk_tokens,
        vocab_size=session.plan.models.vocab_size,
    )
    counts = divergence.new_tensor(float(batch.num_response_tokens))
    return torch.stack([divergence, cross_entropy, counts]).double()
