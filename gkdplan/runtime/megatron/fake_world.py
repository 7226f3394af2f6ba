"""One rank of any number, alone in its process and without data: shapes run, bytes do not exist."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.optimizer import clip_grads
from megatron.core.tensor_parallel import layers, mappings
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from gkdplan.runplan.layout import Layout
from gkdplan.runtime.megatron import balanced_routing, platform
from gkdplan.runtime.megatron.mesh import Mesh, close_mesh, init_mesh


@contextmanager
def fake_world(layout: Layout, rank: int, max_nonzero: int) -> Iterator[Mesh]:
    """The mesh of `rank`, as in a world whose other ranks answer at once.

    Collectives do nothing. Tensors made inside are fakes of the CPU: they have shape, dtype and
    storage size, and no contents; where the program asks for contents, `_Answers` gives them.
    The process must have no default process group.
    """
    platform.prepare("gloo")
    dist.init_process_group("fake", rank=rank, world_size=layout.world_size, store=FakeStore())
    try:
        with ExitStack() as stack:
            for owner, name, stand_in in _STAND_INS:
                stack.enter_context(patch.object(owner, name, stand_in))
            mesh = init_mesh(layout, seed=0)
            stack.callback(close_mesh)
            stack.enter_context(FakeTensorMode())
            stack.enter_context(_Answers(max_nonzero))
            yield mesh
    finally:
        dist.destroy_process_group()


class _Answers(TorchDispatchMode):
    """What contents decide: every number is 1, no mask has a bit set, and of what is asked for its
    nonzero entries `max_nonzero` are, or all where they are fewer."""

    def __init__(self, max_nonzero: int) -> None:
        super().__init__()
        self._max_nonzero = max_nonzero

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten.nonzero.default:
            asked = args[0]
            num = 0 if asked.dtype is torch.bool else min(asked.numel(), self._max_nonzero)
            return asked.new_empty((num, asked.dim()), dtype=torch.int64)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class _Pending:
    """A collective under way, which holds a tensor until the last reference to it is gone."""

    held: Tensor

    def wait(self) -> None:
        pass


def _reduce_scatter(
    output: Tensor, tensor: Tensor, *_: object, async_op: bool = False, **__: object
) -> _Pending | None:
    """Like gloo's, which works on a copy (torch/csrc/distributed/c10d/ProcessGroupGloo.cpp)."""
    pending = _Pending(tensor.clone())
    return pending if async_op else None


def _every_rank_says(answers: list[Any], own: object, group: object = None) -> None:
    """`all_gather_object`, which looks into its bytes."""
    answers[:] = [own] * len(answers)


def _norm(chunk_size: int, flag: Tensor, tensors: list[list[Tensor]], *_: object) -> tuple:
    """Megatron's norm of many tensors, which makes a tensor of their norms' contents."""
    (gradients,) = tensors
    return torch.stack([torch.norm(gradient) for gradient in gradients]).norm().reshape(1), None


def _copied(storage: UntypedStorage, source: UntypedStorage) -> UntypedStorage:
    """A copy of storages, whose operands the mode's cache of results would keep alive."""
    return storage


_STAND_INS = (
    (layers, "dist_reduce_scatter_func", _reduce_scatter),
    (mappings, "dist_reduce_scatter_func", _reduce_scatter),
    (param_and_grad_buffer, "dist_reduce_scatter_func", _reduce_scatter),
    (dist, "all_gather_object", _every_rank_says),
    (param_and_grad_buffer, "_coalescing_manager", lambda *_, **__: nullcontext()),
    (clip_grads, "l2_norm_impl", _norm),
    (UntypedStorage, "copy_", _copied),
    *balanced_routing.STAND_INS,
)
