"""Bytes of Megatron's gradient buffers and of Adam's state on one rank."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.parameters import Parameter, num_elements
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.vocab import Dtype

FP32_BYTES = 4
PARAMETER_ALIGNMENT = 64
"""Elements; a distributed optimizer starts every parameter at a multiple of it."""
BUCKET_ALIGNMENT = 128
"""Elements; with a distributed optimizer a bucket ends at a multiple of it and of the number of
its shards."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GradientBuffer:
    """Parameters whose gradients lie in one array; a distributed optimizer cuts each of its buckets
    into `num_shards`, one for each rank that holds the same parameters, of which `shards` count
    (None: all)."""

    parameters: tuple[Parameter, ...]
    num_shards: int
    shards: range | None = None


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Bytes that training keeps on one rank: the largest of the ranks that share its parameters."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    owned_elements: int
    """Elements whose main weights and moments this rank keeps."""
    update_bytes: int
    """What torch's AdamW makes at most while it updates on a CPU; a fused one makes nothing."""
    clip_bytes: int
    """The largest gradient, scaled into a copy by the clipping that Megatron has without
    Transformer Engine (megatron/core/utils.py, local_multi_tensor_scale)."""
    bucket_bytes: int
    """The largest part of the gradients that is reduced at one time, float32."""


@lru_cache(maxsize=1024)
def state_of_rank(
    model: RankModel, degrees: AxisDegrees, ranks: range | None = None, *, distributed: bool
) -> TrainingState:
    """`training_state` of a rank's share of a model, beside which frozen parameters only lie.

    It is that of `ranks` of the stage, counted from its first (None: all).

    Every chunk of layers has a buffer of its own, which a distributed optimizer divides over the
    ranks of the data and context axes, and where experts are divided one for them, divided over the
    ranks that hold the same ones (megatron/core/distributed/distributed_data_parallel.py).
    """
    buffers = []
    for chunk in model.trained_chunks:
        shared = tuple(parameter for parameter in chunk if not parameter.is_divided)
        divided = tuple(parameter for parameter in chunk if parameter.is_divided)
        num_shards, sharers = degrees.data * degrees.context, degrees.tensor
        buffers.append(GradientBuffer(shared, num_shards, _shards(ranks, sharers)))
        if divided:
            sharers = degrees.expert_tensor * degrees.expert
            shards = _shards(ranks, sharers)
            buffers.append(GradientBuffer(divided, degrees.expert_data, shards))
    state = training_state(tuple(buffers), model.dtype, distributed=distributed)
    return replace(state, parameter_bytes=state.parameter_bytes + model.frozen_bytes)


def _shards(ranks: range | None, num_neighbours: int) -> range | None:
    """Those of the ranks; `num_neighbours` in a row have other parameters and the same shard."""
    if ranks is None:
        return None
    return range(ranks.start // num_neighbours, (ranks.stop - 1) // num_neighbours + 1)


def training_state(
    buffers: tuple[GradientBuffer, ...], dtype: Dtype, *, distributed: bool
) -> TrainingState:
    """Parameters, float32 gradients, and Adam's state with float32 main weights.

    Source: megatron/core/distributed/param_and_grad_buffer.py (one bucket a buffer, as nothing
    overlaps the backward, and one for each shared embedding) and
    megatron/core/optimizer/distrib_optimizer.py. Where parameters are float32 the main weights are
    views of them; otherwise they are a float32 copy. Adam keeps two float32 moments. A distributed
    optimizer divides main weights and moments by position in the bucket, so ranks differ by its
    padding: the fullest shard of every bucket is given.
    """
    buckets = [*_in_order(buffers, distributed)] or [_NOTHING]
    owned = sum(bucket.owned_elements for bucket in buckets)
    num_copies = 2 if dtype is Dtype.FP32 else 3
    return TrainingState(
        parameter_bytes=sum(bucket.num_elements for bucket in buckets) * dtype.num_bytes,
        gradient_bytes=sum(bucket.num_elements for bucket in buckets) * FP32_BYTES,
        optimizer_bytes=owned * num_copies * FP32_BYTES,
        owned_elements=owned,
        update_bytes=max(bucket.update_elements for bucket in buckets) * FP32_BYTES,
        clip_bytes=max(bucket.largest_piece for bucket in buckets) * FP32_BYTES,
        bucket_bytes=max(bucket.num_elements for bucket in buckets) * FP32_BYTES,
    )


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Elements, padding among them, and of the fullest shard: those that it owns, those of the
    arrays that an update makes, those of the largest piece of a parameter, and of the last one."""

    num_elements: int
    owned_elements: int
    update_elements: int
    largest_piece: int
    last_piece: int


_NOTHING = _Bucket(0, 0, 0, 0, 0)
"""Of a rank on which nothing learns."""


@dataclass(slots=True)
class _Update:
    """The arrays that AdamW makes for one piece of a parameter after the other: the root of the
    second moment and the quotient with it, while the quotient of the piece before is still there.
    Matrices and vectors are updated apart."""

    before: int = 0
    largest: int = 0
    largest_piece: int = 0

    def of(self, num_elements: int, is_vector: bool) -> None:
        before = 0 if is_vector else self.before
        self.largest = max(self.largest, 2 * num_elements + before)
        self.largest_piece = max(self.largest_piece, num_elements)
        self.before = self.before if is_vector else num_elements


def _in_order(buffers: Sequence[GradientBuffer], distributed: bool) -> Iterator[_Bucket]:
    """Those of divided experts have an AdamW of their own."""
    before = {False: 0, True: 0}
    for buffer in buffers:
        is_divided = any(parameter.is_divided for parameter in buffer.parameters)
        for bucket in _buckets(buffer, distributed, before[is_divided]):
            before[is_divided] = bucket.last_piece
            yield bucket


def _buckets(buffer: GradientBuffer, distributed: bool, before: int) -> Iterator[_Bucket]:
    """Those of a buffer, after a piece of `before` elements. Without a distributed optimizer there
    is one, neither padded nor cut; with it the last parameter comes first, and a shared embedding,
    first or last, has a bucket of its own.
    """
    if not distributed:
        update = _Update(before)
        for parameter in buffer.parameters:
            update.of(parameter.num_elements, parameter.is_vector)
        length = num_elements(buffer.parameters)
        yield _Bucket(length, length, update.largest, update.largest_piece, update.before)
        return
    for _, run in groupby(reversed(buffer.parameters), key=lambda parameter: parameter.is_shared):
        bucket = _cut_bucket(tuple(run), buffer, before)
        before = bucket.last_piece
        yield bucket


def _cut_bucket(parameters: tuple[Parameter, ...], buffer: GradientBuffer, before: int) -> _Bucket:
    """`before` is the last piece of the bucket before it."""
    num_shards, shards = buffer.num_shards, buffer.shards or range(buffer.num_shards)
    spans, length = _place(parameters, num_shards)
    shard = length // num_shards
    longest = max(end - start for start, end in spans)
    if longest >= 2 * shard - 1 and len(shards) == num_shards:
        return _Bucket(length, shard, 2 * shard + min(before, shard), shard, shard)
    owned = dict.fromkeys(shards, 0)
    updates = {rank: _Update(before) for rank in shards}
    for parameter, (start, end) in zip(parameters, spans, strict=True):
        first, last = start // shard, (end - 1) // shard
        for rank in range(max(first, shards.start), min(last + 1, shards.stop)):
            piece = min(end, (rank + 1) * shard) - max(start, rank * shard)
            owned[rank] += piece
            updates[rank].of(piece, parameter.is_vector)
    largest = max(update.largest for update in updates.values())
    last_piece = max(update.before for update in updates.values())
    largest_piece = max(update.largest_piece for update in updates.values())
    return _Bucket(length, max(owned.values()), largest, largest_piece, last_piece)


def _place(parameters: tuple[Parameter, ...], num_shards: int) -> tuple[list[Span], int]:
    """Where each parameter lies in its bucket, and the bucket's length."""
    spans = []
    end = 0
    for parameter in parameters:
        start = _align(end, PARAMETER_ALIGNMENT)
        end = start + parameter.num_elements
        spans.append((start, end))
    return spans, _align(end, math.lcm(num_shards, BUCKET_ALIGNMENT))


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
