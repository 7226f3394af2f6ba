"""The mesh of ranks: Megatron's process groups over a started torch.distributed, and its seeds."""

from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from torch.distributed import ProcessGroup

from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runtime.megatron import platform


@dataclass(frozen=True, slots=True)
class Mesh:
    """This rank's place on each axis.

    Ranks of one tensor group are neighbours; the data group holds the ranks of the data and the
    context axis, whose gradients are summed.
    """

    rank: int
    world_size: int
    tensor_rank: int
    tensor_size: int
    pipeline_rank: int
    pipeline_size: int
    context_rank: int
    context_size: int
    data_rank: int
    data_size: int
    tensor_group: ProcessGroup
    pipeline_group: ProcessGroup
    data_group: ProcessGroup
    device: torch.device


def init_mesh(layout: Layout, seed: int) -> Mesh:
    """Build the groups of the student's layout, in Megatron's order, and seed every generator.

    The launcher has called `platform.prepare` and `torch.distributed.init_process_group`. The
    default generator gets the same seed on every rank; Megatron's tensor-parallel state differs by
    tensor rank.
    """
    degrees = layout.student
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=degrees.tensor,
        pipeline_model_parallel_size=degrees.pipeline,
        virtual_pipeline_model_parallel_size=num_chunks_of_stages(degrees),
        context_parallel_size=degrees.context,
        expert_model_parallel_size=max(degrees.expert, layout.teacher.expert),
        expert_tensor_parallel_size=max(degrees.expert_tensor, layout.teacher.expert_tensor),
        create_gloo_process_groups=False,
    )
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed)
    mesh = Mesh(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pipeline_size=parallel_state.get_pipeline_model_parallel_world_size(),
        context_rank=parallel_state.get_context_parallel_rank(),
        context_size=parallel_state.get_context_parallel_world_size(),
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        tensor_group=parallel_state.get_tensor_model_parallel_group(),
        pipeline_group=parallel_state.get_pipeline_model_parallel_group(),
        data_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        device=platform.device(),
    )
    sizes = (mesh.tensor_size, mesh.pipeline_size, mesh.context_size, mesh.data_size)
    assert sizes == (degrees.tensor, degrees.pipeline, degrees.context, degrees.data)
    return mesh


def num_chunks_of_stages(degrees: AxisDegrees) -> int | None:
    """As Megatron wants to hear it: None where every stage is one run of layers."""
    return degrees.virtual_pipeline if degrees.virtual_pipeline > 1 else None


def close_mesh() -> None:
    """Destroy the groups that `init_mesh` built; torch.distributed itself stays up."""
    parallel_state.destroy_model_parallel()
