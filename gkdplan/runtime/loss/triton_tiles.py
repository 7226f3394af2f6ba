"""What the Triton kernels do to a tile of logits of one row: the language's side of rules.py.

Legend: TILE entries of the vocabulary, `a` and `b` logits / temperature less a row's largest.
"""

import triton
import triton.language as tl


@triton.jit
def load(ptr, column, start, num_entries, DTYPE: tl.constexpr, TILE: tl.constexpr):
    """A tile of logits, -inf beyond the vocabulary. Only the last tile has a mask: the others are
    read in vectors, whatever the vocabulary is divisible by."""
    at = start + tl.arange(0, TILE)
    if start + TILE <= num_entries:
        logits = tl.load(ptr + at * column)
    else:
        logits = tl.load(ptr + at * column, mask=at < num_entries, other=float("-inf"))
    return logits.to(DTYPE)


@triton.jit
def store(ptr, column, start, num_entries, gradient, TILE: tl.constexpr):
    at = start + tl.arange(0, TILE)
    gradient = gradient.to(ptr.dtype.element_ty)
    if start + TILE <= num_entries:
        tl.store(ptr + at * column, gradient)
    else:
        tl.store(ptr + at * column, gradient, mask=at < num_entries)


@triton.jit
def add_tile(top, parts, logits, coldness):
    """The online softmax: what is summed up is scaled anew where a tile has a larger logit."""
    new_top = tl.maximum(top, tl.max(logits))
    finite_top = tl.where(new_top == float("-inf"), 0.0, new_top)
    parts = parts * tl.exp((top - finite_top) * coldness)
    return new_top, parts + tl.exp((logits - finite_top) * coldness)


@triton.jit
def label_gradient(logits, top, factor, scale, place, TILE: tl.constexpr):
    """scale * (probabilities - one-hot label) at temperature 1, where `factor` is scale * the
    probability of the largest logit; the label lies at `place` of the tile, or outside."""
    is_label = tl.arange(0, TILE) == place
    return factor * tl.exp(logits - top) - tl.where(is_label, scale, 0.0)


@triton.jit
def log_ratio(a, b, b_floor, offset, floor: tl.constexpr):
    """log a - log b of shifted logits, with log b floored; finite where a is 0."""
    return tl.maximum(a - tl.maximum(b, b_floor), floor) + offset


@triton.jit
def log_mixture(gap, beta, small: tl.constexpr):
    """log(m/q) and log(m/p) of gap = log p - log q. Of a wide gap exp(-gap) is taken, as exp(gap)
    may be no number and has no digits left of what is added to it."""
    is_wide = gap > 1.0
    share = tl.where(is_wide, 1.0 - beta, beta)
    log_share = _log1p(share * _expm1(tl.where(is_wide, -gap, gap), small))
    return tl.where(is_wide, log_share + gap, log_share), tl.where(
        is_wide, log_share, log_share - gap
    )


@triton.jit
def _expm1(x, small: tl.constexpr):
    """exp(x) - 1; by its series where x is so small that the difference would lose digits."""
    series = 1.0 + x * (1.0 / 7.0) * (1.0 + x * (1.0 / 8.0))
    series = 1.0 + x * (1.0 / 5.0) * (1.0 + x * (1.0 / 6.0) * series)
    series = 1.0 + x * (1.0 / 3.0) * (1.0 + x * (1.0 / 4.0) * series)
    series = x * (1.0 + x * (1.0 / 2.0) * series)
    return tl.where(tl.abs(x) < small, series, tl.exp(x) - 1.0)


@triton.jit
def _log1p(x):
    """log(1 + x), with the rounding of 1 + x made good (Kahan): accurate for small x."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))
