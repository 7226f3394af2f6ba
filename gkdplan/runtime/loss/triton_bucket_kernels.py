"""The buckets of top_k.py as two Triton kernels: one program a row, one pass over the vocabulary.

The kept ids of a row come sorted by place, so that a tile looks only at those that lie in it.

Legend: N rows, V vocabulary entries of this rank, K kept ids of a row.
"""

import triton
import triton.language as tl

from gkdplan.runtime.loss.triton_tiles import add_tile, label_gradient, load, store

NOWHERE = tl.constexpr(2**31 - 1)
"""A place after all others."""


@triton.jit
def tail_kernel(
    logits_ptr,  # [N, V]
    places_ptr,  # [N, K] int32, sorted in a row
    tops_ptr,  # [N] largest logit of the tail, 0 where it is all -inf
    totals_ptr,  # [N] sums of exp((logit - largest) / temperature)
    temperature_ptr,  # [1] float64
    stride,
    column,
    num_entries,
    num_kept,
    DTYPE: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    places_ptr += row * num_kept
    coldness = (1.0 / tl.load(temperature_ptr)).to(DTYPE)
    top = tl.full([], float("-inf"), DTYPE)
    parts = tl.zeros([TILE], DTYPE)
    kept = 0
    for tile in range(tl.cdiv(num_entries, TILE)):
        start = tile * TILE
        z = load(logits_ptr, column, start, num_entries, DTYPE, TILE)
        place = _next_place(places_ptr, kept, num_kept)
        while place < start + TILE:
            z = tl.where(tl.arange(0, TILE) == place - start, float("-inf"), z)
            kept += 1
            place = _next_place(places_ptr, kept, num_kept)
        top, parts = add_tile(top, parts, z, coldness)
    tl.store(tops_ptr + row, tl.where(top == float("-inf"), 0.0, top))
    tl.store(totals_ptr + row, tl.sum(parts))


@triton.jit
def bucket_gradient_kernel(
    logits_ptr,  # [N, V]
    gradient_ptr,  # [N, V], may be logits_ptr
    places_ptr,  # [N, K] int32, sorted in a row
    kept_ptr,  # [N, K] gradient of the kept logits, in that order
    tops_ptr,  # [N] as tail_kernel
    factors_ptr,  # [N] gradient of the tail's largest logit
    temperature_ptr,  # [1] float64
    labels_ptr,  # [N] places of the labels, V where another rank has one
    label_scales_ptr,  # [N]
    label_tops_ptr,  # [N] largest logits of the row
    label_factors_ptr,  # [N] probability of the largest logit, times the scale
    stride,
    column,
    gradient_stride,
    gradient_column,
    num_entries,
    num_kept,
    LABELS: tl.constexpr,
    DTYPE: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    gradient_ptr += row * gradient_stride
    places_ptr += row * num_kept
    kept_ptr += row * num_kept
    coldness = (1.0 / tl.load(temperature_ptr)).to(DTYPE)
    top = tl.load(tops_ptr + row)
    factor = tl.load(factors_ptr + row)
    kept = 0
    for tile in range(tl.cdiv(num_entries, TILE)):
        start = tile * TILE
        z = load(logits_ptr, column, start, num_entries, DTYPE, TILE)
        g = factor * tl.exp((z - top) * coldness)
        place = _next_place(places_ptr, kept, num_kept)
        while place < start + TILE:
            own = tl.load(kept_ptr + kept)
            g = tl.where(tl.arange(0, TILE) == place - start, own, g)
            kept += 1
            place = _next_place(places_ptr, kept, num_kept)
        if LABELS:
            g += label_gradient(
                z,
                tl.load(label_tops_ptr + row),
                tl.load(label_factors_ptr + row),
                tl.load(label_scales_ptr + row).to(DTYPE),
                tl.load(labels_ptr + row) - start,
                TILE,
            )
        store(gradient_ptr, gradient_column, start, num_entries, g, TILE)


@triton.jit
def _next_place(places_ptr, kept, num_kept):
    return tl.load(places_ptr + kept, mask=kept < num_kept, other=NOWHERE)
