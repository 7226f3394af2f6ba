"""Bytes of Megatron's gradient buffers and of Adam's state on one rank."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.parameters import Parameter, largest_elements, num_elements
from gkdplan.runplan.model import AxisDegrees
from gkdplan.vocab import Dtype

FP32_BYTES = 4
PARAMETER_ALIGNMENT = 64
"""Elements; a distributed optimizer starts every parameter at a multiple of it."""
BUCKET_ALIGNMENT = 128
"""Elements; with a distributed optimizer a bucket ends at a multiple of it and of the number of
its shards."""

NUM_UPDATE_COPIES = {"gloo": 2, "nccl": 0}
"""Arrays as large as the updated piece that AdamW makes: torch's the root of the second moment and
its quotient, Transformer Engine's none."""

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class GradientBuffer:
    """Parameters whose gradients lie in one array; a distributed optimizer cuts each of its buckets
    into `num_shards`, one for each rank that holds the same parameters."""

    parameters: tuple[Parameter, ...]
    num_shards: int


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Bytes that training keeps on one rank: the largest of the ranks that share its parameters."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    owned_elements: int
    """Elements whose main weights and moments this rank keeps."""
    largest_bytes: int
    """The largest piece that Adam updates at one time, float32."""
    bucket_bytes: int
    """The largest part of the gradients that is reduced at one time, float32."""


@lru_cache(maxsize=1024)
def state_of_rank(model: RankModel, degrees: AxisDegrees, *, distributed: bool) -> TrainingState:
    """`training_state` of a rank's share of a model.

    Every chunk of layers has a buffer of its own, which a distributed optimizer divides over the
    ranks of the data and context axes (megatron/core/distributed/distributed_data_parallel.py).
    """
    num_shards = degrees.data * degrees.context
    buffers = tuple(GradientBuffer(chunk, num_shards) for chunk in model.chunks)
    return training_state(buffers, model.dtype, distributed=distributed)


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
    buckets = [bucket for buffer in buffers for bucket in _buckets(buffer, distributed)]
    owned = sum(bucket.owned_elements for bucket in buckets)
    num_copies = 2 if dtype is Dtype.FP32 else 3
    return TrainingState(
        parameter_bytes=sum(bucket.num_elements for bucket in buckets) * dtype.num_bytes,
        gradient_bytes=sum(bucket.num_elements for bucket in buckets) * FP32_BYTES,
        optimizer_bytes=owned * num_copies * FP32_BYTES,
        owned_elements=owned,
        largest_bytes=max(bucket.largest_piece for bucket in buckets) * FP32_BYTES,
        bucket_bytes=max(bucket.num_elements for bucket in buckets) * FP32_BYTES,
    )


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Elements, padding among them; those of its fullest shard; the largest piece in any shard."""

    num_elements: int
    owned_elements: int
    largest_piece: int


def _buckets(buffer: GradientBuffer, distributed: bool) -> Iterator[_Bucket]:
    """Without a distributed optimizer there is one, neither padded nor cut."""
    if not distributed:
        length = num_elements(buffer.parameters)
        yield _Bucket(length, length, largest_elements(buffer.parameters))
        return
    for parameters in _runs(buffer.parameters):
        spans, length = _place(parameters, buffer.num_shards)
        share = _largest_share(spans, length // buffer.num_shards, buffer.num_shards)
        yield _Bucket(length, *share)


def _runs(parameters: tuple[Parameter, ...]) -> Iterator[tuple[Parameter, ...]]:
    """The parameters of each bucket: a shared embedding has its own, first or last."""
    shared = tuple(parameter for parameter in parameters if parameter.is_shared)
    others = tuple(parameter for parameter in parameters if not parameter.is_shared)
    return filter(None, (shared, others))


def _place(parameters: tuple[Parameter, ...], num_shards: int) -> tuple[tuple[Span, ...], int]:
    """Where each parameter lies in its bucket, last one first, and the bucket's length."""
    spans = []
    end = 0
    for parameter in reversed(parameters):
        start = _align(end, PARAMETER_ALIGNMENT)
        end = start + parameter.num_elements
        spans.append((start, end))
    return tuple(spans), _align(end, math.lcm(num_shards, BUCKET_ALIGNMENT))


def _largest_share(spans: tuple[Span, ...], shard: int, num_shards: int) -> tuple[int, int]:
    """Elements of parameters, padding left out, in the fullest of `num_shards` equal shards, and
    those of the largest piece of a parameter in any shard."""
    longest = max(end - start for start, end in spans)
    if longest >= 2 * shard - 1:
        return shard, shard
    shares = [0] * num_shards
    largest = 0
    for start, end in spans:
        for rank in range(start // shard, (end - 1) // shard + 1):
            piece = min(end, (rank + 1) * shard) - max(start, rank * shard)
            shares[rank] += piece
            largest = max(largest, piece)
    return max(shares), largest


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
