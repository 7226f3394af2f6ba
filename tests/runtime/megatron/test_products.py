import pytest
import torch
from torch.nn.functional import linear

from gkdplan.runtime.megatron.products import multiply


@pytest.mark.parametrize("rows", [(0, 1), (1, 1), (16,), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_rows_times_a_weight_are_those_of_float64(
    rows: tuple[int, ...], dtype: torch.dtype, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = (*rows, 48), (101, 48), (101,)
    inputs, weight, bias = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    product = multiply(inputs, weight, bias if has_bias else None, sequence_parallel=False)
    expected = linear(inputs.double(), weight.double(), bias.double() if has_bias else None)
    assert product.dtype is dtype
    torch.testing.assert_close(product, expected.to(dtype))


def test_rows_may_lie_apart() -> None:
    whole, weight = torch.randn(16, 2, 48), torch.randn(101, 48)
    torch.testing.assert_close(multiply(whole[:, 0], weight), whole[:, 0] @ weight.t())


def test_without_onednn_the_product_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = torch.randn(16, 48), torch.randn(101, 48)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(multiply(inputs, weight), linear(inputs, weight))
