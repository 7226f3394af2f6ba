"""The meter of live bytes against storages whose sizes are known."""

import threading

import pytest
import torch
from torch import Tensor

from gkdplan.runtime.live_bytes import LiveBytes

CPU = torch.device("cpu")
KB = 1000  # 250 float32 elements


@pytest.fixture
def live():
    with LiveBytes(CPU) as meter:
        yield meter


def kilobytes(num_kb: int) -> Tensor:
    return torch.ones(num_kb * 250)


def test_a_tensor_counts_from_its_making_to_its_end(live: LiveBytes) -> None:
    tensor = kilobytes(3)
    assert live.current_bytes == 3 * KB
    del tensor
    assert live.current_bytes == 0
    assert live.peak_bytes == 3 * KB


def test_views_share_one_storage(live: LiveBytes) -> None:
    tensor = kilobytes(4)
    views = [tensor[:10], tensor.view(2, 500), tensor.detach(), torch.nn.Parameter(tensor)]
    assert live.current_bytes == 4 * KB
    del tensor
    assert live.current_bytes == 4 * KB
    views.clear()
    assert live.current_bytes == 0


def test_a_view_of_an_unseen_tensor_counts_all_that_it_keeps_alive() -> None:
    unseen = kilobytes(5)
    with LiveBytes(CPU) as live:
        view = unseen[:10]
        assert live.current_bytes == 5 * KB
        del view


def test_in_place_work_makes_nothing(live: LiveBytes) -> None:
    tensor = kilobytes(2)
    tensor.mul_(2.0).add_(tensor)
    torch.exp(tensor, out=tensor)
    assert live.peak_bytes == 2 * KB


def test_the_peak_starts_anew_with_a_phase(live: LiveBytes) -> None:
    kept = kilobytes(1)
    passing = kilobytes(6)
    del passing
    assert live.peak_bytes == 7 * KB
    live.mark_phase()
    assert live.peak_bytes == 1 * KB
    del kept
    assert (live.current_bytes, live.peak_bytes) == (0, 1 * KB)


def test_operations_with_several_results_count_them_all(live: LiveBytes) -> None:
    values, indices = kilobytes(1).sort()  # float32 and int64; the argument is freed
    assert live.current_bytes == 1 * KB + 2 * KB
    parts = torch._foreach_mul([values, values], 2.0)
    assert live.current_bytes == 5 * KB
    del indices, parts


def test_adopted_tensors_count_once() -> None:
    before = kilobytes(2)
    live = LiveBytes(CPU)
    live.adopt([before, before[:5], before.detach()])
    assert live.current_bytes == 2 * KB
    with live:
        before.mul_(2.0)
        assert live.current_bytes == 2 * KB
    del before
    assert live.current_bytes == 0


def test_the_host_tier_never_counts(live: LiveBytes) -> None:
    host = kilobytes(8)
    live.exclude(host)
    assert live.current_bytes == 0
    live.adopt([host])
    host.add_(1.0)
    assert host[:4].numel() == 4
    device = host.clone()
    assert live.current_bytes == 8 * KB
    del host, device
    assert live.current_bytes == 0
    tensor = kilobytes(8)  # very likely at the address that the host's had
    assert live.current_bytes == 8 * KB
    del tensor


def test_a_parameter_whose_data_is_exchanged(live: LiveBytes) -> None:
    """How offloading fetches and releases a parameter."""
    parameter = torch.nn.Parameter(kilobytes(3))
    host = parameter.data
    live.exclude(host)
    parameter.data = torch.empty(0)
    assert live.current_bytes == 0
    parameter.data = torch.empty_like(host).copy_(host)
    assert live.current_bytes == 3 * KB
    parameter.data = torch.empty(0)
    assert live.current_bytes == 0


def test_resized_storages_count_what_they_hold(live: LiveBytes) -> None:
    tensor = kilobytes(4)
    tensor.untyped_storage().resize_(0)
    assert live.current_bytes == 0
    tensor.untyped_storage().resize_(4 * KB)
    assert live.current_bytes == 4 * KB
    tensor.resize_(2000)
    assert live.current_bytes == 8 * KB
    del tensor
    assert live.current_bytes == 0


def test_storages_resized_outside_are_measured_on_entering() -> None:
    live = LiveBytes(CPU)
    with live:
        tensor = kilobytes(4)
    tensor.untyped_storage().resize_(0)
    with live:
        assert live.current_bytes == 0


def test_tensors_freed_outside_are_not_counted_on_entering_again() -> None:
    live = LiveBytes(CPU)
    with live:
        tensor = kilobytes(4)
    del tensor
    with live:
        assert live.current_bytes == 0


def test_tensors_made_outside_are_not_seen() -> None:
    with LiveBytes(CPU) as live:
        pass
    tensor = kilobytes(4)
    assert live.current_bytes == 0
    tensor.untyped_storage().resize_(8 * KB)
    assert live.current_bytes == 0


def test_what_autograd_saves_is_alive_until_backward(live: LiveBytes) -> None:
    x = kilobytes(1).requires_grad_()
    y = x.exp()  # saves its result
    z = y.sin()  # saves y
    loss = z.sum()
    del y, z  # y is saved; nothing saves z
    saved = live.current_bytes - loss.untyped_storage().nbytes()
    assert saved == 2 * KB  # x, y
    loss.backward()
    del loss
    assert live.current_bytes == 2 * KB  # x, its gradient


class Doubled(torch.autograd.Function):
    """Notes in which thread its backward runs, and makes an intermediate there."""

    thread: int | None = None

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.cos())
        return x * 2.0

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        Doubled.thread = threading.get_ident()
        (saved,) = ctx.saved_tensors
        intermediate = gradient.expand(10, -1).contiguous() + saved  # ten, and ten freed
        return intermediate.sum(dim=0)


def test_backward_runs_in_the_calling_thread_and_its_intermediates_are_seen(
    live: LiveBytes,
) -> None:
    x = kilobytes(1).requires_grad_()
    y = Doubled.apply(x)
    assert live.current_bytes == 3 * KB  # x, its cosine, y
    live.mark_phase()
    y.backward(torch.ones_like(y))
    assert Doubled.thread == threading.get_ident()
    # at the addition: x, cosine, y, the gradient of y, the expanded copy and the sum of the two
    assert live.peak_bytes == (4 + 20) * KB
    del y
    assert live.current_bytes == 2 * KB  # x, its gradient


def test_a_linear_layer_costs_what_is_known_of_it(live: LiveBytes) -> None:
    """[50, 20] @ [20, 30]: 4,000 B in, 2,400 B of weight, 6,000 B out; a mean of squares."""
    x, weight = torch.ones(50, 20), torch.nn.Parameter(torch.ones(30, 20))
    live.mark_phase()
    out = torch.nn.functional.linear(x, weight)
    assert live.current_bytes == 4000 + 2400 + 6000
    loss = out.square().sum()
    del out
    # out is saved by the square, whose result is freed after the sum: loss holds 4 bytes
    assert live.current_bytes == 4000 + 2400 + 6000 + 4
    live.mark_phase()
    loss.backward()
    # torch's pow_backward is grad * (2 * out.pow(1)): three results beside the gradient of the
    # loss, 4 bytes, which the sum only expands
    assert live.peak_bytes == 12404 + 4 + 3 * 6000
    assert live.current_bytes == 4000 + 2400 + 2400 + 4


def test_an_exception_leaves_the_meter_usable() -> None:
    live = LiveBytes(CPU)
    with pytest.raises(KeyError), live:
        raise KeyError
    before = torch.UntypedStorage.resize_
    with live:
        tensor = kilobytes(1)
        assert live.current_bytes == KB
    assert torch.UntypedStorage.resize_ is before
    del tensor
