"""A meter of the bytes that live tensors hold on the device.

On CUDA the allocator keeps the count. On a CPU no allocator does, so the results of every
operation are looked at: a storage counts from the operation that made it until it is freed, once,
however many views it has. What autograd saves and what its C++ backward makes are results of
operations too: on a CPU the backward runs in the thread that called it, where the mode is active.
Not seen is what a kernel allocates and frees within one operation.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode


class OverLimitError(MemoryError):
    """More bytes live on a device at one time than its limit allows."""

    def __init__(self, live_bytes: int) -> None:
        super().__init__(f"{live_bytes:,} bytes live")
        self.live_bytes = live_bytes


class LiveBytes:
    """Live bytes of a device's tensors, now and at most since `mark_phase()`.

    Tensors are seen while the meter is entered as a context, any number of times; those made
    outside it count from `adopt` on. The host tier, which on a CPU machine is RAM like the
    device's, is left out by `exclude`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._meter: _Meter = _Allocator(device) if device.type == "cuda" else _Storages()
        self._watching = ExitStack()

    def __enter__(self) -> Self:
        self._watching.enter_context(self._meter.watch())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watching.close()

    @property
    def current_bytes(self) -> int:
        return self._meter.current_bytes

    @property
    def peak_bytes(self) -> int:
        """The most since `mark_phase()`."""
        return self._meter.peak_bytes

    def mark_phase(self) -> None:
        """Let the peak start anew from what lives now."""
        self._meter.mark_phase()

    def limit(self, num_bytes: int) -> None:
        """From now on what makes more than `num_bytes` live raises OverLimitError while the meter
        is entered; on CUDA the allocator raises torch's OutOfMemoryError, always."""
        self._meter.limit(num_bytes)

    def adopt(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors that were made outside the context."""
        for tensor in tensors:
            self._meter.adopt(tensor.untyped_storage())

    def exclude(self, tensor: Tensor) -> None:
        """Never count this tensor's storage: it belongs to the host tier."""
        self._meter.exclude(tensor.untyped_storage())


class _Meter(Protocol):
    @property
    def current_bytes(self) -> int: ...

    @property
    def peak_bytes(self) -> int: ...

    def watch(self) -> AbstractContextManager[Any]: ...

    def mark_phase(self) -> None: ...

    def limit(self, num_bytes: int) -> None: ...

    def adopt(self, storage: UntypedStorage) -> None: ...

    def exclude(self, storage: UntypedStorage) -> None: ...


class _Allocator:
    """The statistics of CUDA's caching allocator, which already sees every tensor and no other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def current_bytes(self) -> int:
        return int(torch.cuda.memory_allocated(self._device))

    @property
    def peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_allocated(self._device))

    def watch(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def mark_phase(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def limit(self, num_bytes: int) -> None:
        total = torch.cuda.get_device_properties(self._device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total), self._device)

    def adopt(self, storage: UntypedStorage) -> None:
        pass

    def exclude(self, storage: UntypedStorage) -> None:
        pass


@dataclass(slots=True)
class _Counted:
    storage: "weakref.ref[UntypedStorage]"
    num_bytes: int
    on_host: bool


class _Storages:
    """Every CPU storage that was seen, by the address of its StorageImpl, until it is freed,
    which gloo's threads do too."""

    def __init__(self) -> None:
        self._counting = threading.RLock()
        self.current_bytes = 0
        self.peak_bytes = 0
        self._counted: dict[int, _Counted] = {}
        self._limit_bytes: int | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """See results of operations, and resizes of storages, which are no operations."""
        for counted in list(self._counted.values()):
            storage = counted.storage()
            if storage is not None:
                self.adopt(storage)
        resize = UntypedStorage.resize_

        def counting_resize(storage: UntypedStorage, num_bytes: int) -> UntypedStorage:
            resize(storage, num_bytes)
            self.adopt(storage)
            return storage

        UntypedStorage.resize_ = counting_resize
        try:
            with _ResultWatch(self._show):
                yield
        finally:
            UntypedStorage.resize_ = resize

    def mark_phase(self) -> None:
        self.peak_bytes = self.current_bytes

    def limit(self, num_bytes: int) -> None:
        self._limit_bytes = num_bytes

    def _show(self, storage: UntypedStorage) -> None:
        self.adopt(storage)
        if self._limit_bytes is not None and self.current_bytes > self._limit_bytes:
            raise OverLimitError(self.current_bytes)

    def adopt(self, storage: UntypedStorage) -> None:
        """Count what the storage holds now, in place of what it held before."""
        with self._counting:
            counted = self._known(storage)
            num_bytes = 0 if counted.on_host else storage.nbytes()
            self.current_bytes += num_bytes - counted.num_bytes
            counted.num_bytes = num_bytes
            self.peak_bytes = max(self.peak_bytes, self.current_bytes)

    def exclude(self, storage: UntypedStorage) -> None:
        self._known(storage).on_host = True
        self.adopt(storage)

    def _known(self, storage: UntypedStorage) -> _Counted:
        key = storage._cdata
        if key not in self._counted:
            freed = weakref.ref(storage, lambda _: self._free(key))
            self._counted[key] = _Counted(freed, num_bytes=0, on_host=False)
        return self._counted[key]

    def _free(self, key: int) -> None:
        with self._counting:
            self.current_bytes -= self._counted.pop(key).num_bytes


class _ResultWatch(TorchDispatchMode):  # type: ignore[misc]
    """Shows the storages of every operation's results."""

    def __init__(self, show: Callable[[UntypedStorage], None]) -> None:
        super().__init__()
        self._show = show

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(result, Tensor):
                self._show(result.untyped_storage())
        return results
