"""Memory that is given back while the tensors that view it stay."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, UntypedStorage

from gkdplan.runtime.live_bytes import LiveBytes
from gkdplan.vocab import Tier


class ResizedStorages:
    """Whole storages that leave the device and come back under the same views.

    Megatron's parameters, main weights and gradients are views of a few buffers. A storage that is
    resized to nothing frees their bytes and leaves every view valid for when it has its size again;
    nothing may read them in between. With `keeps` their bytes wait in host memory, pinned where the
    device is a GPU; without, they are zero when they come back.
    """

    def __init__(self, tensors: Iterable[Tensor], meter: LiveBytes, *, keeps: bool) -> None:
        storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
        self._storages = [(storage, storage.nbytes()) for storage in storages.values()]
        self._homes = [_home(size, meter) for _, size in self._storages] if keeps else []

    def move(self, tier: Tier) -> None:
        """To the device, or off it."""
        if tier is Tier.DEVICE:
            self._come()
        else:
            self._leave()

    def _leave(self) -> None:
        if self._homes:
            _copy(self._homes, [_bytes_of(storage) for storage, _ in self._storages])
        for storage, _ in self._storages:
            storage.resize_(0)

    def _come(self) -> None:
        for storage, size in self._storages:
            storage.resize_(size)
        there = [_bytes_of(storage) for storage, _ in self._storages]
        if self._homes:
            _copy(there, self._homes)
        else:
            for tensor in there:
                tensor.zero_()


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """In the stream of the work that reads and writes them, so that none is freed too early."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _home(num_bytes: int, meter: LiveBytes) -> Tensor:
    is_pinned = meter.device.type == "cuda"
    home = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=is_pinned)
    meter.exclude(home)
    return home


def _bytes_of(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
