"""Copies between host and device, on a GPU beside the work that is queued."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def begin_copies(
    copies: Sequence[tuple[Tensor, Tensor]], device: torch.device
) -> Callable[[], None]:
    """Begin to copy from the second of each pair to the first; what is returned waits for it.

    On a GPU copies to and from pinned host tensors run in a stream of their own. It begins after
    the work that was queued, which may still read or write what lies in that memory; the tensors
    are used and freed only after the wait, so that the allocator needs no record of the stream.
    """
    if device.type != "cuda":
        for target, source in copies:
            target.copy_(source)
        return nothing_to_wait_for
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for target, source in copies:
            target.copy_(source, non_blocking=True)
    return lambda: torch.cuda.current_stream(device).wait_stream(stream)


def nothing_to_wait_for() -> None:
    """Wait for a copy that is already complete."""


def nothing_like(tensor: Tensor) -> Tensor:
    """What stands for a tensor that is elsewhere: of its dtype and device, without an element."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device)
