"""The distillation loss over a vocabulary that may be spread over a tensor group: pure torch."""

from gkdplan.runtime.loss.evaluation import TokenMeasures, token_measures
from gkdplan.runtime.loss.likeliest import likeliest
from gkdplan.runtime.loss.linear import jsd_linear, top_k_linear
from gkdplan.runtime.loss.logits import jsd_logits
from gkdplan.runtime.loss.softcap import bound_, bounded
from gkdplan.runtime.loss.top_k import TopK, with_tail

__all__ = [
    "TokenMeasures",
    "TopK",
    "bound_",
    "bounded",
    "jsd_linear",
    "jsd_logits",
    "likeliest",
    "token_measures",
    "top_k_linear",
    "with_tail",
]
