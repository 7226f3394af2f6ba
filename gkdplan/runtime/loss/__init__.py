"""The distillation loss over a vocabulary that may be spread over a tensor group: pure torch."""

from gkdplan.runtime.loss.evaluation import divergence_and_cross_entropy
from gkdplan.runtime.loss.linear import jsd_linear
from gkdplan.runtime.loss.logits import jsd_logits

__all__ = ["divergence_and_cross_entropy", "jsd_linear", "jsd_logits"]
