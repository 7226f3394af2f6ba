"""Bytes of Megatron's gradient buffer and of Adam's state on one rank."""

import math
from dataclasses import dataclass

from gkdplan.planner.memory.parameters import Parameter, largest_elements, num_elements
from gkdplan.vocab import Dtype

FP32_BYTES = 4
PARAMETER_ALIGNMENT = 64
"""Elements; a distributed optimizer starts every parameter at a multiple of it."""
BUCKET_ALIGNMENT = 128
"""Elements; with a distributed optimizer the buffer ends at a multiple of it and of the data
degree."""

NUM_UPDATE_COPIES = {"gloo": 2, "nccl": 0}
"""Arrays as large as the updated piece that AdamW makes: torch's the root of the second moment and
its quotient, Transformer Engine's none."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Bytes that training keeps on one rank: the largest rank of the data axis."""

    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    owned_elements: int
    """Elements whose main weights and moments this rank keeps."""
    largest_bytes: int
    """The largest piece that Adam updates at one time, float32."""


def training_state(
    parameters: tuple[Parameter, ...], dtype: Dtype, data: int, *, distributed: bool
) -> TrainingState:
    """Parameters, float32 gradients, and Adam's state with float32 main weights.

    Source: megatron/core/distributed/param_and_grad_buffer.py (one bucket, as nothing overlaps the
    backward) and megatron/core/optimizer/distrib_optimizer.py. Where parameters are float32 the
    main weights are views of them; otherwise they are a float32 copy. Adam keeps two float32
    moments. A distributed optimizer divides main weights and moments over the data axis by
    position in the buffer, so ranks differ by its padding; the largest is given.
    """
    if distributed:
        spans, length = _place(parameters, data)
        owned, piece = _largest_share(spans, length // data, data)
    else:
        length = owned = num_elements(parameters)
        piece = largest_elements(parameters)
    num_copies = 2 if dtype is Dtype.FP32 else 3
    return TrainingState(
        parameter_bytes=length * dtype.num_bytes,
        gradient_bytes=length * FP32_BYTES,
        optimizer_bytes=owned * num_copies * FP32_BYTES,
        owned_elements=owned,
        largest_bytes=piece * FP32_BYTES,
    )


def _place(parameters: tuple[Parameter, ...], data: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Where each parameter lies in the buffer, last one first, and the buffer's length."""
    spans = []
    end = 0
    for parameter in reversed(parameters):
        start = _align(end, PARAMETER_ALIGNMENT)
        end = start + parameter.num_elements
        spans.append((start, end))
    return tuple(spans), _align(end, math.lcm(data, BUCKET_ALIGNMENT))


def _largest_share(spans: tuple[tuple[int, int], ...], shard: int, data: int) -> tuple[int, int]:
    """Elements of parameters, padding left out, in the fullest of `data` equal shards, and those of
    the largest piece of a parameter in any shard."""
    longest = max(end - start for start, end in spans)
    if longest >= 2 * shard - 1:
        return shard, shard
    shares = [0] * data
    largest = 0
    for start, end in spans:
        for rank in range(start // shard, (end - 1) // shard + 1):
            piece = min(end, (rank + 1) * shard) - max(start, rank * shard)
            shares[rank] += piece
            largest = max(largest, piece)
    return max(shares), largest


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
