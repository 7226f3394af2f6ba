"""Collectives on copies, which no meter sees.

Gloo's own threads let go of a collective's tensors, and of their copies of them, at no certain time
after its result is there. A count of live bytes between the two depends on chance; here gloo gets
copies, and the step's own tensors live as long as the step lets them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.tensor_parallel import layers, mappings
from torch.utils._python_dispatch import _disable_current_modes

COLLECTIVES = (
    (layers, "dist_all_gather_func"),
    (layers, "dist_reduce_scatter_func"),
    (mappings, "dist_all_gather_func"),
    (mappings, "dist_reduce_scatter_func"),
    (param_and_grad_buffer, "dist_all_gather_func"),
    (param_and_grad_buffer, "dist_reduce_scatter_func"),
    (dist, "all_gather_into_tensor"),
    (dist, "all_reduce"),
    (dist, "all_to_all_single"),
)


class Done:
    """The handle of work that is over."""

    def wait(self) -> None:
        pass


@contextmanager
def settled() -> Iterator[None]:
    """Gloo never holds a tensor of the step."""
    with ExitStack() as stack:
        for owner, name in COLLECTIVES:
            stack.enter_context(patch.object(owner, name, _on_copies(getattr(owner, name))))
        stack.enter_context(patch.object(param_and_grad_buffer, "_coalescing_manager", _one_by_one))
        yield


def _on_copies(collective: Callable[..., Any]) -> Callable[..., Any]:
    def on_copies(*args: Any, async_op: bool = False, **options: Any) -> Done | None:
        with _disable_current_modes(), torch.no_grad():
            copies = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
            collective(*copies, **options)
            for original, copy in zip(args, copies, strict=True):
                if isinstance(original, torch.Tensor):
                    original.detach().copy_(copy)
        return Done() if async_op else None

    return on_copies


@contextmanager
def _one_by_one(*_: object, **__: object) -> Iterator[Done]:
    """In place of torch's manager of coalesced collectives, which starts them when it ends."""
    yield Done()
