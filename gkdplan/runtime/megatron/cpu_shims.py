"""What lets megatron-core, written for CUDA, run in a process that computes on the CPU.

Each shim answers one habit of megatron-core 0.16: `torch.cuda.current_device()` as the device of
new tensors, literal "cuda" devices, CUDA random states, type names compared with "torch.cuda",
the stream on which a dispatcher of experts copies counts to the host, and outputs that are emptied
while they are being sent.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.pipeline_parallel import p2p_communication
from megatron.core.tensor_parallel import mappings
from megatron.core.tensor_parallel import random as megatron_random
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gkdplan.runtime.megatron import without_transformer_engine

_GATHER_EQUAL_ROWS = mappings._gather_along_first_dim
_REDUCE_SCATTER_EQUAL_ROWS = mappings._reduce_scatter_along_first_dim


_NAME_A_DEVICE = {Tensor.cuda, Tensor.pin_memory, Tensor.type, Tensor.to}
"""Functions that ask for CUDA without a keyword."""


class CpuRngStates(megatron_random.CudaRNGStatesTracker):
    """Megatron's named random states, kept for the CPU generator."""

    def add(self, name: str, seed: int) -> None:
        self._is_initialized = True
        self.seeds_.add(seed)
        self.states_[name] = torch.Generator().manual_seed(seed).get_state()

    @contextlib.contextmanager
    def fork(self, name: str = megatron_random._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
        outer = torch.get_rng_state()
        torch.set_rng_state(self.states_[name])
        try:
            yield
        finally:
            self.states_[name] = torch.get_rng_state()
            torch.set_rng_state(outer)


class CudaAsCpu(TorchFunctionMode):
    """While entered, on this thread, what asks for CUDA gets the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        if not kwargs and func not in _NAME_A_DEVICE:
            return func(*args)
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


def _counts_on_host(
    self: MoEAlltoAllTokenDispatcher, point: str, tokens_per_expert: Any = None
) -> Any:
    """In place of the copies that the dispatcher makes on a CUDA stream of its own."""
    if point == self.cuda_dtoh_point:
        for name in ("input_splits", "output_splits"):
            counts = getattr(self, name)
            if isinstance(counts, Tensor):
                setattr(self, name, counts.tolist())
    return tokens_per_expert


def _send_beside(
    *, tensor_send_prev: Tensor | None, tensor_send_next: Tensor | None, **others: Any
) -> Any:
    """Megatron's transfers under way, of tensors that it may empty before they have left.

    A schedule that overlaps them with work frees the data of an output right after it began to
    send it (megatron/core/pipeline_parallel/schedules.py, deallocate_output_tensor). Nccl's stream
    allows that; what gloo sends must stay, so it gets a tensor of its own on the same storage.
    """
    return _p2p_ops(
        tensor_send_prev=None if tensor_send_prev is None else tensor_send_prev.detach(),
        tensor_send_next=None if tensor_send_next is None else tensor_send_next.detach(),
        **others,
    )


_p2p_ops = p2p_communication._p2p_ops


def _gather_rows(
    share: Tensor, group: Any, sizes: list[int] | None = None, use_global_buffer: bool = False
) -> Tensor:
    """The rows of all ranks, `sizes` of each: unequal shares travel padded to the largest."""
    if _are_equal(sizes):
        return _GATHER_EQUAL_ROWS(share, group, sizes, use_global_buffer)
    padded = share.new_zeros(max(sizes), *share.shape[1:])
    padded[: len(share)] = share
    shares = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(shares, padded, group=group)
    return torch.cat([rows[:size] for rows, size in zip(shares, sizes, strict=True)])


def _reduce_scatter_rows(
    rows: Tensor, group: Any, sizes: list[int] | None = None, use_global_buffer: bool = False
) -> Tensor:
    """This rank's rows of the sum over ranks, `sizes` for each: of unequal ones all are summed."""
    if _are_equal(sizes):
        return _REDUCE_SCATTER_EQUAL_ROWS(rows, group, sizes, use_global_buffer)
    summed = rows.clone()
    torch.distributed.all_reduce(summed, group=group)
    return summed.split(sizes)[group.rank()].clone()


def _are_equal(sizes: list[int] | None) -> bool:
    return sizes is None or len(set(sizes)) == 1


def install() -> None:
    """Patch this process, once; it then computes on the CPU until it ends."""
    if isinstance(megatron_random._CUDA_RNG_STATE_TRACKER, CpuRngStates):
        return
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.synchronize = lambda device=None: None
    moe_utils.te_general_gemm = None
    p2p_communication._p2p_ops = _send_beside
    MoEAlltoAllTokenDispatcher.cuda_dtoh_stream = "unused"
    MoEAlltoAllTokenDispatcher._maybe_dtoh_and_synchronize = _counts_on_host
    mappings._gather_along_first_dim = _gather_rows
    mappings._reduce_scatter_along_first_dim = _reduce_scatter_rows
    megatron_random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    megatron_random._CUDA_RNG_STATE_TRACKER = CpuRngStates()
    megatron_random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    without_transformer_engine.install()


def _is_cuda(device: object) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == "cuda"
