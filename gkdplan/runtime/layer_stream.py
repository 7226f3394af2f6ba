"""A frozen model that lives on the host and visits the device layer by layer while it runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from gkdplan.runtime.copying import begin_copies, nothing_like
from gkdplan.runtime.live_bytes import LiveBytes


@dataclass(slots=True)
class _Unit:
    """Modules that come and go together: the eyes, the embedding, a layer, or the last norm."""

    module: Module
    homes: list[tuple[Parameter, Tensor]]
    arrived: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class LayerStream:
    """The units of one chunk, in the order in which a forward enters them; where there is nothing
    to see it passes over the eyes.

    As a unit is entered the copy of the next one begins, on a GPU beside the unit's own work; as it
    is left its bytes on the device are free. So two units at most are there at one time.
    """

    device: torch.device
    units: list[_Unit] = field(default_factory=list)

    def add(self, module: Module, parameters: Sequence[Parameter], meter: LiveBytes) -> None:
        """Let a module's `parameters`, now in host memory, visit the device with it; on a GPU they
        are pinned."""
        homes = []
        for parameter in parameters:
            host = parameter.data.pin_memory() if self.device.type == "cuda" else parameter.data
            parameter.data = nothing_like(parameter)
            meter.exclude(host)
            homes.append((parameter, host))
        place = len(self.units)
        self.units.append(_Unit(module, homes))
        module.register_forward_pre_hook(partial(self._enter, place))
        module.register_forward_hook(partial(self._leave, place))

    def _enter(self, place: int, *_: Any) -> None:
        unit = self.units[place]
        if unit.arrived is None:
            self._fetch(unit)
        assert unit.arrived is not None
        unit.arrived()
        if place + 1 < len(self.units):
            self._fetch(self.units[place + 1])

    def _leave(self, place: int, *_: Any) -> None:
        unit = self.units[place]
        for parameter, _ in unit.homes:
            parameter.data = nothing_like(parameter)
        unit.arrived = None

    def _fetch(self, unit: _Unit) -> None:
        copies = [(torch.empty_like(host, device=self.device), host) for _, host in unit.homes]
        for (parameter, _), (on_device, _) in zip(unit.homes, copies, strict=True):
            parameter.data = on_device
        unit.arrived = begin_copies(copies, self.device)


def stream_layers(chunks: Sequence[Any], kept: Sequence[Tensor], meter: LiveBytes) -> None:
    """Let each of the GPTModels visit its `meter`'s device layer by layer, all but what is
    `kept`, which is already there."""
    for chunk in chunks:
        stream = LayerStream(meter.device)
        for module in _modules(chunk):
            parameters = [p for p in module.parameters() if all(p is not k for k in kept)]
            stream.add(module, parameters, meter)


def _modules(chunk: Any) -> Iterator[Module]:
    if chunk.pre_process:
        if hasattr(chunk, "vision"):
            yield chunk.vision
        yield chunk.embedding
    yield from chunk.decoder.layers
    if chunk.post_process:
        yield chunk.decoder.final_layernorm
