"""Megatron's collectives along the sequence where ranks have unequal shares."""

import torch
from gloo_ranks import run_on_ranks
from megatron.core.tensor_parallel.mappings import (
    gather_from_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from tiny_models import start_mesh

from gkdplan.runplan.layout import AxisDegrees

SIZES = [3, 1]


def test_unequal_shares_are_gathered_and_scattered() -> None:
    run_on_ranks(_check_gather, 2)
    run_on_ranks(_check_reduce_scatter, 2)


def _check_gather() -> None:
    mesh = start_mesh(AxisDegrees(tensor=2, sequence=True, data=1))
    whole = torch.arange(8.0).view(4, 2)
    share = whole.split(SIZES)[mesh.rank].clone().requires_grad_()
    gathered = gather_from_sequence_parallel_region(
        share, group=mesh.tensor_group, output_split_sizes=SIZES
    )
    assert torch.equal(gathered, whole)
    (gathered * whole * (mesh.rank + 1)).sum().backward()
    # Both ranks' gradients of a row: 1 x its values and 2 x its values.
    assert torch.equal(share.grad, 3 * whole.split(SIZES)[mesh.rank])


def _check_reduce_scatter() -> None:
    mesh = start_mesh(AxisDegrees(tensor=2, sequence=True, data=1))
    whole = torch.arange(8.0).view(4, 2)
    partial = (whole * (mesh.rank + 1)).requires_grad_()
    share = reduce_scatter_to_sequence_parallel_region(
        partial, group=mesh.tensor_group, input_split_sizes=SIZES
    )
    assert torch.equal(share, 3 * whole.split(SIZES)[mesh.rank])
    (share * (mesh.rank + 1)).sum().backward()
    # The gradient of a row is that of the rank that it was scattered to: 1 of the first three, 2.
    assert partial.grad[:, 0].tolist() == [1.0, 1.0, 1.0, 2.0]
