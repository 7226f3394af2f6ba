"""Collectives after which gloo holds nothing.

Gloo's own threads let go of a collective's tensors, and of their copies of them, at no certain time
after its result is there. A count of live bytes between the two depends on chance.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup
from megatron.core.tensor_parallel import layers, mappings

from gkdplan.runtime.live_bytes import LiveBytes

COLLECTIVES = (
    (layers, "dist_all_gather_func"),
    (layers, "dist_reduce_scatter_func"),
    (mappings, "dist_all_gather_func"),
    (mappings, "dist_reduce_scatter_func"),
    (dist, "all_gather_into_tensor"),
    (dist, "all_reduce"),
    (dist, "all_to_all_single"),
    (_ParamAndGradBucketGroup, "start_grad_sync"),
)


@contextmanager
def settled(meter: LiveBytes) -> Iterator[None]:
    """Collectives that are waited for return when gloo has let go."""
    with ExitStack() as stack:
        for owner, name in COLLECTIVES:
            collective = getattr(owner, name)
            stack.enter_context(patch.object(owner, name, _settling(collective, meter)))
        yield


def _settling(collective: Callable[..., Any], meter: LiveBytes) -> Callable[..., Any]:
    def settling(*tensors: Any, async_op: bool = False, **options: Any) -> Any:
        if async_op:
            return collective(*tensors, async_op=True, **options)
        storages = [t.untyped_storage() for t in tensors if isinstance(t, torch.Tensor)]
        before = _held(storages, meter)
        collective(*tensors, **options)
        while _held(storages, meter) > before:
            time.sleep(0.0005)
        return None

    return settling


def _held(storages: list[torch.UntypedStorage], meter: LiveBytes) -> int:
    """References to the storages and live bytes, which both rise while gloo works."""
    return sum(torch._C._storage_Use_Count(s._cdata) for s in storages) + meter.current_bytes
