"""Carries out the plan's moves: which parameters lie on the device, and which only on the host."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from gkdplan.runplan.steps import Move
from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.runtime.megatron.forward import output_head
from gkdplan.vocab import Tier

TEACHER_BODY = "teacher body"


class Residency:
    """Frozen parameters that live on the host and visit the device.

    The host copy never changes, so leaving the device frees the device's bytes and writes
    nothing back. On a CPU the two tiers are both RAM, but they are accounted apart.
    """

    def __init__(self, device: torch.device, meter: LiveBytes) -> None:
        self._device = device
        self._meter = meter
        self._objects: dict[str, list[tuple[Parameter, Tensor]]] = {}
        self._under_way: dict[str, Callable[[], None]] = {}
        self._movers: dict[str, Callable[[Tier], None]] = {}

    def keep_on_host(self, name: str, parameters: Sequence[Parameter]) -> None:
        """Make the parameters' present CPU tensors the host copy of object `name`.

        On a GPU they are pinned one by one, so that the host never holds all of them twice.
        """
        self._objects[name] = []
        for parameter in parameters:
            host = parameter.data.pin_memory() if self._device.type == "cuda" else parameter.data
            parameter.data = _nothing_like(parameter)
            self._meter.exclude(host)
            self._objects[name].append((parameter, host))

    def bring(self, parameters: Sequence[Parameter]) -> None:
        """Let parameters that were built in host memory live on the device from now on."""
        for parameter in parameters:
            parameter.data = parameter.data.to(self._device)

    def leave_to(self, name: str, mover: Callable[[Tier], None]) -> None:
        """Let `mover` carry out the moves of object `name`."""
        self._movers[name] = mover

    def apply(self, move: Move) -> None:
        """Do one move of the plan; of one that is due later only begin its copy."""
        if move.object in self._movers:
            self._movers[move.object](move.to_tier)
            return
        if move.to_tier is not Tier.DEVICE:
            self._release(move.object)
            return
        self._fetch(move.object)
        if move.due is None:
            self.await_copy(move.object)

    def await_copy(self, name: str) -> None:
        """Let nothing read object `name` before its copy is complete."""
        self._under_way.pop(name)()

    @contextmanager
    def everything_on_device(self) -> Iterator[None]:
        """Every object visits the device, as evaluation and sampling between steps need it."""
        for name in self._objects:
            self._fetch(name)
            self.await_copy(name)
        try:
            yield
        finally:
            for name in self._objects:
                self._release(name)

    def _fetch(self, name: str) -> None:
        copies = [
            (torch.empty_like(host, device=self._device), host) for _, host in self._objects[name]
        ]
        for (parameter, _), (on_device, _) in zip(self._objects[name], copies, strict=True):
            parameter.data = on_device
        self._under_way[name] = _begin(copies, self._device)

    def _release(self, name: str) -> None:
        assert name not in self._under_way, f"{name} leaves before its copy was awaited"
        for parameter, _ in self._objects[name]:
            parameter.data = _nothing_like(parameter)


def keep_teacher_on_host(residency: Residency, chunks: Sequence[Any]) -> None:
    """The GPTModels' parameters but the output head, which the student phase needs too."""
    heads = [output_head(chunk) for chunk in chunks if chunk.post_process]
    parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
    body = [parameter for parameter in parameters if all(parameter is not head for head in heads)]
    residency.keep_on_host(TEACHER_BODY, body)
    residency.bring(heads)


def _begin(copies: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Callable[[], None]:
    """Begin to copy from the second of each pair to the first; what is returned waits for it.

    On a GPU the pinned host tensors are copied in a stream of their own. It begins after the work
    that was queued, which may still read what lay in that memory; the tensors are used and freed
    only after the wait, so that the allocator needs no record of the stream.
    """
    if device.type != "cuda":
        for on_device, host in copies:
            on_device.copy_(host)
        return _nothing
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for on_device, host in copies:
            on_device.copy_(host, non_blocking=True)
    return lambda: torch.cuda.current_stream(device).wait_stream(stream)


def _nothing() -> None:
    """Wait for a copy that is already complete."""


def _nothing_like(parameter: Parameter) -> Tensor:
    return torch.empty(0, dtype=parameter.dtype, device=parameter.device)
