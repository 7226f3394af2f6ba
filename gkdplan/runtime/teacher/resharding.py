"""What the teacher has kept, brought to where the student's loss is.

The two models cut a global batch into the same micro-batches, and share them over the ranks each in
its own way. The ranks of the teacher's last stage hold hidden states or the likeliest ids, whole on
each tensor rank, or their part of the vocabulary's logits; those of the student's last stage need
the states of their own data rank's micro-batches, of their share of each row, and the logits of
their own part of the vocabulary. Legend: N response tokens of a micro-batch on a rank, W hidden
size, number of ids or vocabulary share.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor

from gkdplan.runplan.layout import AxisDegrees, Place
from gkdplan.runplan.model import RunPlan
from gkdplan.runtime.data.batch import Row
from gkdplan.runtime.data.deal import Deal
from gkdplan.runtime.loss import TopK
from gkdplan.runtime.megatron.config import TORCH_DTYPES
from gkdplan.runtime.teacher.payload import TeacherPayload
from gkdplan.vocab import Payload

Rows = slice | list[int]
Cut = tuple[Rows, slice]
"""Rows and columns of states [N, W]."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Of one micro-batch: rank `source` gives the cut `taken` of its states to rank `target`, whose
    cut `put` it is."""

    source: int
    target: int
    taken: Cut
    put: Cut


@dataclass(frozen=True, slots=True)
class Resharding:
    """Both models' deals of the same micro-batches; `width` is the whole hidden size of the
    teacher, or the whole padded vocabulary, of elements in `dtype`, or the number of likeliest ids.
    """

    teacher: Deal
    student: Deal
    payload: Payload
    width: int
    dtype: torch.dtype

    def pieces(self, k: int) -> Iterator[Piece]:
        """Everything that travels, or stays, of micro-batch k: every state that is needed once."""
        teacher, student = self.teacher.degrees, self.student.degrees
        made, wanted = self.teacher.response_tokens(k), self.student.response_tokens(k)
        for tensor, context in product(range(student.tensor), range(student.context)):
            target = student.rank_at(Place(tensor, context, k % student.data, student.pipeline - 1))
            columns = self._columns(student, tensor)
            for source in self._sources(k, target):
                own = self._columns(teacher, source.tensor)
                shared = _overlap(own, columns)
                tokens = sorted({*made[source.context]} & {*wanted[context]})
                if tokens and shared:
                    yield Piece(
                        source=teacher.rank_at(source),
                        target=target,
                        taken=(_rows(made[source.context], tokens), _within(own, shared)),
                        put=(_rows(wanted[context], tokens), _within(columns, shared)),
                    )

    def shape(self, k: int, rank: int) -> tuple[int, int] | None:
        """[N, W] of what the student's rank gets of micro-batch k, if it has its loss."""
        degrees, place = self.student.degrees, self.student.degrees.place_of(rank)
        if place.stage != degrees.pipeline - 1 or place.data != k % degrees.data:
            return None
        num_tokens = len(self.student.response_tokens(k)[place.context])
        return num_tokens, len(self._columns(degrees, place.tensor))

    def _sources(self, k: int, target: int) -> Iterator[Place]:
        """The teacher's ranks that serve `target`: with hidden states, which are whole on every
        tensor rank, that of its own number, so that they share the work and a rank serves itself.
        """
        degrees = self.teacher.degrees
        own = degrees.place_of(target).tensor
        tensors = range(degrees.tensor) if self.payload is Payload.LOGITS else (own,)
        for context, tensor in product(range(degrees.context), tensors):
            yield Place(tensor, context, k % degrees.data, degrees.pipeline - 1)

    def _columns(self, degrees: AxisDegrees, tensor: int) -> range:
        if self.payload is not Payload.LOGITS:
            return range(self.width)
        share = self.width // degrees.tensor
        return range(tensor * share, (tensor + 1) * share)


def resharding_of(plan: RunPlan, batches: Sequence[Sequence[Row]], payload: Payload) -> Resharding:
    """For the micro-batches of all ranks."""
    model, layout = plan.models.teacher, plan.layout
    widths = {
        Payload.HIDDEN: model.shape.hidden_size,
        Payload.LOGITS: model.padded_vocab_size,
        Payload.TOP_K: plan.objective.top_k or 0,
    }
    return Resharding(
        teacher=Deal(layout.teacher, batches),
        student=Deal(layout.student, batches),
        payload=payload,
        width=widths[payload],
        dtype=TORCH_DTYPES[model.dtype],
    )


def reshard(
    resharding: Resharding, made: list[TeacherPayload | None], device: torch.device
) -> list[TeacherPayload | None]:
    """This rank's payload for each micro-batch of the student, None where its loss is elsewhere.

    `made` are those of the teacher's micro-batches on this rank; each is released as it is sent.
    Collective over all ranks, micro-batch after micro-batch.
    """
    rank = dist.get_rank()
    made_for, kept_for = (
        deal.degrees.place_of(rank).data for deal in (resharding.teacher, resharding.student)
    )
    kept: list[TeacherPayload | None] = []
    for k in range(len(resharding.teacher.batches)):
        index, data_rank = divmod(k, resharding.teacher.degrees.data)
        payload = None
        if data_rank == made_for:
            payload, made[index] = made[index], None
        shape = resharding.shape(k, rank)
        target = None if shape is None else _empty(resharding, shape, device)
        pieces = [piece for piece in resharding.pieces(k) if rank in (piece.source, piece.target)]
        for of_source, of_target in zip(
            _parts(resharding, payload and payload.states),
            _parts(resharding, target),
            strict=True,
        ):
            _exchange(rank, pieces, of_source, of_target)
        if k % resharding.student.degrees.data == kept_for:
            kept.append(None if target is None else TeacherPayload(target))
    return kept


def _empty(resharding: Resharding, shape: tuple[int, int], device: torch.device) -> Tensor | TopK:
    """What a rank is to get of a micro-batch, not set."""
    if resharding.payload is not Payload.TOP_K:
        return torch.empty(shape, dtype=resharding.dtype, device=device)
    ids_NK = torch.empty(shape, dtype=torch.int32, device=device)
    log_probs_NK = torch.empty(shape, dtype=torch.float32, device=device)
    return TopK(ids_NK, log_probs_NK, log_probs_NK.new_empty(shape[0]))


def _parts(resharding: Resharding, states: Tensor | TopK | None) -> list[Tensor | None]:
    """The tensors [N, W] of a payload, all rows of which travel alike."""
    if isinstance(states, TopK):
        assert states.tail_N is not None
        return [states.ids_NK, states.log_probs_NK, states.tail_N[:, None]]
    return [states] * (3 if resharding.payload is Payload.TOP_K else 1)


def _exchange(
    rank: int, pieces: Sequence[Piece], states: Tensor | None, target: Tensor | None
) -> None:
    """Send this rank's pieces of `states` and fill `target`, both [N, W] of one micro-batch."""
    transfers, received = [], []
    for piece in pieces:
        if piece.source == piece.target:
            assert states is not None
            assert target is not None
            target[piece.put] = states[piece.taken]
        elif piece.source == rank:
            assert states is not None
            sent = states[piece.taken].contiguous()
            transfers.append(dist.P2POp(dist.isend, sent, piece.target))
        else:
            assert target is not None
            buffer = target[piece.put]
            if not (isinstance(piece.put[0], slice) and buffer.is_contiguous()):
                buffer = buffer.contiguous()
                received.append((piece, buffer))
            transfers.append(dist.P2POp(dist.irecv, buffer, piece.source))
    for work in dist.batch_isend_irecv(transfers) if transfers else ():
        work.wait()
    for piece, buffer in received:
        assert target is not None
        target[piece.put] = buffer


def _rows(held: Sequence[int], tokens: Sequence[int]) -> Rows:
    """Where `tokens` are among those that a rank holds, both rising."""
    places = {token: place for place, token in enumerate(held)}
    first, last = places[tokens[0]], places[tokens[-1]]
    if last - first + 1 == len(tokens):
        return slice(first, last + 1)
    return [places[token] for token in tokens]


def _overlap(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _within(columns: range, part: range) -> slice:
    return slice(part.start - columns.start, part.stop - columns.start)
