"""The sums that most tests compare."""

from torch import Tensor

from gkdplan.runtime.loss import token_measures


def divergence_and_cross_entropy(*tensors, **settings) -> tuple[Tensor, Tensor]:
    """Over all tokens, float64 scalars."""
    divergence, cross_entropy, _ = token_measures(*tensors, **settings).sums()
    return divergence, cross_entropy
