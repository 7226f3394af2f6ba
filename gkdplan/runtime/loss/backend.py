"""The backends of the loss: how rows are measured and their gradient is written.

The rules, the tensor group, the buckets of likeliest ids and all that is public are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gkdplan.runtime.loss import compiled, eager
from gkdplan.runtime.loss.rows import RowMeasures, Rows
from gkdplan.runtime.loss.rules import Rule
from gkdplan.runtime.loss.top_k import BucketMeasures, Buckets
from gkdplan.runtime.loss.vocabulary import VocabularyShard
from gkdplan.vocab import LossBackend

DEFAULT_BACKEND = {"cpu": LossBackend.EAGER, "cuda": LossBackend.TRITON}
"""By device."""


@dataclass(frozen=True, slots=True)
class Backend:
    """`measures` works on rows by a rule; `log_masses` of logits [N, V] are log sum exp over this
    rank's entries [N], float64; `buckets` sums up logits by ids [N, K] at a temperature."""

    measures: Callable[[Rule, Rows], RowMeasures]
    log_masses: Callable[[Tensor], Tensor]
    buckets: Callable[[Tensor, Tensor, float, VocabularyShard], BucketMeasures]


EAGER = Backend(eager.EagerMeasures, eager.log_masses, Buckets)
COMPILED = Backend(compiled.measures, compiled.log_masses, Buckets)


def backend_for(name: str | None, device: torch.device) -> Backend:
    """The backend of that name, the device's default for None.

    Raises ValueError where there is none of that name, or the device cannot run it.
    """
    match LossBackend(DEFAULT_BACKEND[device.type] if name is None else name):
        case LossBackend.EAGER:
            return EAGER
        case LossBackend.COMPILED:
            compiled.check_compiler(device)
            return COMPILED
        case LossBackend.TRITON:
            return triton_backend(device)


def triton_backend(device: torch.device) -> Backend:
    # Triton is imported only where it runs: it is no dependency of a CPU's environment.
    from gkdplan.runtime.loss import triton_buckets, triton_rows

    triton_rows.check_device(device)
    return Backend(triton_rows.TritonMeasures, triton_rows.log_masses, triton_buckets.TritonBuckets)
