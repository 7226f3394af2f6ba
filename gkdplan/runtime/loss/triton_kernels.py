"""The rules of rules.py as one Triton kernel: one program a row, three passes over the vocabulary.

1. mass      the largest logit of both sides and the sum of exp around it, online
2. sums      what the rule sums up over the vocabulary
3. gradient  of the student's logits, and of the cross-entropy beside it

Each pass runs in the call, or what it finds is read: a rank that holds whole rows does all of them
in one launch; over a tensor group a launch ends where the ranks exchange. The second pass goes
backward and the third forward again, so that each starts where the last one left the cache. The
gradient of KL(p||q) needs no sum and is written in the second pass.

Everything is float32 (float64 for float64 logits), but the logs of a row's masses, which are
float64. A lane sums its own column of tiles; lanes are added up once a row.

Of the Jensen-Shannon divergence both logs come from one, of what the log-probabilities differ by:
with gap = log p - log q, log(m/q) = log1p(beta (exp(gap) - 1)) and log(m/p) = log(m/q) - gap.

Legend: N rows, V vocabulary entries of this rank, `x` and `y` the logits / temperature of student
and teacher less their largest, `q` and `p` their probabilities.
"""

import triton
import triton.language as tl

from gkdplan.runtime.loss.triton_tiles import (
    add_tile,
    label_gradient,
    load,
    log_mixture,
    log_ratio,
    store,
)

FORWARD_KL = tl.constexpr(0)
REVERSE_KL = tl.constexpr(1)
JENSEN_SHANNON = tl.constexpr(2)


@triton.jit
def row_kernel(
    student_ptr,  # [N, V]
    teacher_ptr,  # [N, V]
    gradient_ptr,  # [N, V], may be student_ptr
    weights_ptr,  # [N]
    objective_ptr,  # [2] float64: beta, temperature
    tops_ptr,  # [2, N] largest logits of student and teacher
    totals_ptr,  # [2, N] sums of exp((logit - largest) / temperature)
    log_probs_ptr,  # [2, N] float64: log-probabilities of the largest, over all ranks
    sums_ptr,  # [2, N]
    labels_ptr,  # [N] places of the labels, V where another rank has one
    label_scales_ptr,  # [N]
    label_log_totals_ptr,  # [N] float64: log sum exp(logit) over all ranks
    student_stride,
    student_column,
    teacher_stride,
    teacher_column,
    gradient_stride,
    gradient_column,
    num_rows,
    num_entries,
    floor: tl.constexpr,
    small: tl.constexpr,
    RULE: tl.constexpr,
    MASS: tl.constexpr,
    SUMS: tl.constexpr,
    GRADIENT: tl.constexpr,
    LABELS: tl.constexpr,
    DTYPE: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    student_ptr += row * student_stride
    teacher_ptr += row * teacher_stride
    gradient_ptr += row * gradient_stride
    num_tiles = tl.cdiv(num_entries, TILE)
    weight = tl.load(weights_ptr + row)
    if weight == 0:  # whatever the row holds
        if MASS:
            _store_pair(tops_ptr, row, num_rows, 0.0, 0.0)
            _store_pair(totals_ptr, row, num_rows, 1.0, 1.0)
        if SUMS:
            _store_pair(sums_ptr, row, num_rows, 0.0, 0.0)
        if GRADIENT:
            for tile in range(num_tiles):
                zeros = tl.zeros([TILE], DTYPE)
                store(gradient_ptr, gradient_column, tile * TILE, num_entries, zeros, TILE)
        return

    beta = tl.load(objective_ptr).to(DTYPE)
    coldness = (1.0 / tl.load(objective_ptr + 1)).to(DTYPE)
    if MASS:
        x_top, x_total, y_top, y_total = _mass(
            student_ptr,
            student_column,
            teacher_ptr,
            teacher_column,
            coldness,
            num_tiles,
            num_entries,
            DTYPE,
            TILE,
        )
        x_log = _log_of_share(x_total)
        y_log = _log_of_share(y_total)
        _store_pair(tops_ptr, row, num_rows, x_top, y_top)
        _store_pair(totals_ptr, row, num_rows, x_total, y_total)
    else:
        x_top = tl.load(tops_ptr + row)
        y_top = tl.load(tops_ptr + num_rows + row)
        x_log = tl.load(log_probs_ptr + row)
        y_log = tl.load(log_probs_ptr + num_rows + row)
    q_top = tl.exp(x_log).to(DTYPE)
    p_top = tl.exp(y_log).to(DTYPE)
    x_floor = (floor - x_log).to(DTYPE)
    y_floor = (floor - y_log).to(DTYPE)
    offset = (x_log - y_log).to(DTYPE)
    scale = (weight * coldness).to(DTYPE)

    label = num_entries
    label_scale = scale
    label_factor = scale
    if LABELS:
        label = tl.load(labels_ptr + row)
        label_scale = tl.load(label_scales_ptr + row).to(DTYPE)
        label_log_total = tl.load(label_log_totals_ptr + row)
        label_factor = tl.exp(x_top.to(tl.float64) - label_log_total).to(DTYPE) * label_scale

    if SUMS:
        first = tl.zeros([TILE], DTYPE)
        second = tl.zeros([TILE], DTYPE)
        for step in range(num_tiles):
            start = (num_tiles - 1 - step) * TILE
            z = load(student_ptr, student_column, start, num_entries, DTYPE, TILE)
            x = (z - x_top) * coldness
            y = load(teacher_ptr, teacher_column, start, num_entries, DTYPE, TILE)
            y = (y - y_top) * coldness
            q = tl.exp(x) * q_top
            p = tl.exp(y) * p_top
            if RULE == JENSEN_SHANNON:
                gap = log_ratio(y, x, x_floor, -offset, floor)
                log_m_q, log_m_p = log_mixture(gap, beta, small)
                first += q * log_m_q
                second += p * log_m_p
            elif RULE == REVERSE_KL:
                first += q * log_ratio(x, y, y_floor, offset, floor)
                second += tl.where(y <= y_floor, q, 0.0)
            else:
                first += p * log_ratio(y, x, x_floor, -offset, floor)
                second += tl.where(x <= x_floor, p, 0.0)
                if GRADIENT:
                    g = (q - p) * scale
                    if LABELS:
                        g += label_gradient(
                            z, x_top, label_factor, label_scale, label - start, TILE
                        )
                    store(gradient_ptr, gradient_column, start, num_entries, g, TILE)
        first_sum = tl.sum(first)
        second_sum = tl.sum(second)
        _store_pair(sums_ptr, row, num_rows, first_sum, second_sum)
    else:
        first_sum = tl.load(sums_ptr + row)

    if GRADIENT and not (SUMS and RULE == FORWARD_KL):
        for tile in range(num_tiles):
            start = tile * TILE
            z = load(student_ptr, student_column, start, num_entries, DTYPE, TILE)
            x = (z - x_top) * coldness
            y = load(teacher_ptr, teacher_column, start, num_entries, DTYPE, TILE)
            y = (y - y_top) * coldness
            q = tl.exp(x) * q_top
            p = tl.exp(y) * p_top
            if RULE == JENSEN_SHANNON:
                gap = log_ratio(y, x, x_floor, -offset, floor)
                log_m_q, _ = log_mixture(gap, beta, small)
                g = (beta - 1.0) * q * (log_m_q - first_sum)
            elif RULE == REVERSE_KL:
                g = q * (log_ratio(x, y, y_floor, offset, floor) - first_sum)
            else:
                g = q - p
            g *= scale
            if LABELS:
                g += label_gradient(z, x_top, label_factor, label_scale, label - start, TILE)
            store(gradient_ptr, gradient_column, start, num_entries, g, TILE)


@triton.jit
def mass_kernel(
    logits_ptr,  # [N, V]
    tops_ptr,  # [N]
    totals_ptr,  # [N]
    stride,
    column,
    num_entries,
    DTYPE: tl.constexpr,
    TILE: tl.constexpr,
):
    """The first pass alone, of one side, at temperature 1."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    top = tl.full([], float("-inf"), DTYPE)
    parts = tl.zeros([TILE], DTYPE)
    for tile in range(tl.cdiv(num_entries, TILE)):
        z = load(logits_ptr, column, tile * TILE, num_entries, DTYPE, TILE)
        top, parts = add_tile(top, parts, z, 1.0)
    tl.store(tops_ptr + row, tl.where(top == float("-inf"), 0.0, top))
    tl.store(totals_ptr + row, tl.sum(parts))


@triton.jit
def _mass(
    student_ptr,
    student_column,
    teacher_ptr,
    teacher_column,
    coldness,
    num_tiles,
    num_entries,
    DTYPE: tl.constexpr,
    TILE: tl.constexpr,
):
    """(largest, sum of exp) of the student's row and of the teacher's; a row of -inf has 0, 0."""
    x_top = tl.full([], float("-inf"), DTYPE)
    y_top = tl.full([], float("-inf"), DTYPE)
    x_parts = tl.zeros([TILE], DTYPE)
    y_parts = tl.zeros([TILE], DTYPE)
    for tile in range(num_tiles):
        x = load(student_ptr, student_column, tile * TILE, num_entries, DTYPE, TILE)
        y = load(teacher_ptr, teacher_column, tile * TILE, num_entries, DTYPE, TILE)
        x_top, x_parts = add_tile(x_top, x_parts, x, coldness)
        y_top, y_parts = add_tile(y_top, y_parts, y, coldness)
    x_top = tl.where(x_top == float("-inf"), 0.0, x_top)
    y_top = tl.where(y_top == float("-inf"), 0.0, y_top)
    return x_top, tl.sum(x_parts), y_top, tl.sum(y_parts)


@triton.jit
def _log_of_share(total):
    """The log-probability of the largest entry, float64; 0 of a row that is all -inf."""
    return tl.where(total == 0.0, 0.0, -tl.log(tl.where(total == 0.0, 1.0, total).to(tl.float64)))


@triton.jit
def _store_pair(ptr, row, num_rows, student, teacher):
    tl.store(ptr + row, student)
    tl.store(ptr + num_rows + row, teacher)
