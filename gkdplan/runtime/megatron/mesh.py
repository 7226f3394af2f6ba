"""A model's mesh of ranks: Megatron's process groups over a started torch.distributed, and seeds.

The student's groups are those of Megatron's parallel_state. The teacher's are a collection of its
own, which shares every group that holds the same ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from torch.distributed import ProcessGroup

from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runtime.megatron import platform
from gkdplan.runtime.megatron.groups import groups_of_layout
from gkdplan.vocab import Kernels

SEED_STRIDE = 1_000_003
"""Between the seeds of two tensor groups: more than those of one group, which Megatron puts side by
side (megatron/core/tensor_parallel/random.py, model_parallel_cuda_manual_seed)."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """This rank's place on each axis of one model.

    Ranks of one tensor group are neighbours; the data group holds the ranks of the data and the
    context axis, whose gradients are summed. `groups` are all of the model's, as Megatron takes
    them, and `kernels` what its layers are made of.
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
    groups: ProcessGroupCollection
    device: torch.device
    kernels: Kernels


def init_mesh(layout: Layout, seed: int) -> Mesh:
    """Build the groups of the student's layout, in Megatron's order, and seed every generator.

    The launcher has called `platform.prepare` and `torch.distributed.init_process_group`. The
    default generator gets the same seed on the ranks of a tensor group, which see whole inputs
    together, and another one for other rows, chunks of rows and layers; Megatron's tensor-parallel
    state differs by tensor rank too.
    """
    degrees = layout.student
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=degrees.tensor,
        pipeline_model_parallel_size=degrees.pipeline,
        virtual_pipeline_model_parallel_size=num_chunks_of_stages(degrees),
        context_parallel_size=degrees.context,
        expert_model_parallel_size=degrees.expert,
        expert_tensor_parallel_size=degrees.expert_tensor,
        distributed_timeout_minutes=layout.rendezvous.collective_timeout_s / 60,
        create_gloo_process_groups=False,
    )
    mesh = _mesh(ProcessGroupCollection.use_mpu_process_groups(), degrees, layout.kernels)
    seed_generators(mesh, seed)
    return mesh


def seed_generators(mesh: Mesh, seed: int) -> None:
    """As `init_mesh` says."""
    of_tensor_group = mesh.data_group.rank() * mesh.pipeline_size + mesh.pipeline_rank
    own_seed = seed + SEED_STRIDE * of_tensor_group
    torch.manual_seed(own_seed)
    model_parallel_cuda_manual_seed(own_seed)


def init_teacher_mesh(layout: Layout, student: Mesh) -> Mesh:
    """The teacher's mesh beside the student's: the same one where their layouts are equal.

    Collective over all ranks.
    """
    if layout.teacher == layout.student:
        return student
    groups = groups_of_layout(
        layout.teacher,
        student.groups,
        layout.student,
        timedelta(seconds=layout.rendezvous.collective_timeout_s),
    )
    return _mesh(groups, layout.teacher, layout.kernels)


def _mesh(groups: ProcessGroupCollection, degrees: AxisDegrees, kernels: Kernels) -> Mesh:
    mesh = Mesh(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        tensor_rank=groups.tp.rank(),
        tensor_size=groups.tp.size(),
        pipeline_rank=groups.pp.rank(),
        pipeline_size=groups.pp.size(),
        context_rank=groups.cp.rank(),
        context_size=groups.cp.size(),
        data_rank=groups.dp.rank(),
        data_size=groups.dp.size(),
        tensor_group=groups.tp,
        pipeline_group=groups.pp,
        data_group=groups.dp_cp,
        groups=groups,
        device=platform.device(),
        kernels=kernels,
    )
    sizes = (mesh.tensor_size, mesh.pipeline_size, mesh.context_size, mesh.data_size)
    assert sizes == (degrees.tensor, degrees.pipeline, degrees.context, degrees.data)
    return mesh


@contextmanager
def pipeline_of(mesh: Mesh, degrees: AxisDegrees) -> Iterator[None]:
    """While entered, Megatron builds the stages of `mesh`: which layers a stage has it asks of
    parallel_state (megatron/core/transformer/pipeline_parallel_layer_layout.py), not of groups."""
    rank = parallel_state.get_pipeline_model_parallel_rank()
    num_chunks = parallel_state.get_virtual_pipeline_model_parallel_world_size()
    parallel_state.set_pipeline_model_parallel_rank(mesh.pipeline_rank)
    parallel_state.set_virtual_pipeline_model_parallel_world_size(num_chunks_of_stages(degrees))
    try:
        yield
    finally:
        parallel_state.set_pipeline_model_parallel_rank(rank)
        parallel_state.set_virtual_pipeline_model_parallel_world_size(num_chunks)


def num_chunks_of_stages(degrees: AxisDegrees) -> int | None:
    """As Megatron wants to hear it: None where every stage is one run of layers."""
    return degrees.virtual_pipeline if degrees.virtual_pipeline > 1 else None


@contextmanager
def tensor_group_of(groups: ProcessGroupCollection) -> Iterator[None]:
    """While entered, the tensor group of `groups` is that of parallel_state, which attention asks
    where ranks share kv heads (megatron/core/transformer/attention.py,
    get_query_key_value_tensors)."""
    group = parallel_state.get_tensor_model_parallel_group()
    parallel_state._TENSOR_MODEL_PARALLEL_GROUP = groups.tp
    try:
        yield
    finally:
        parallel_state._TENSOR_MODEL_PARALLEL_GROUP = group


def close_mesh() -> None:
    """Destroy the groups that `init_mesh` built, with what a teacher shares of them;
    torch.distributed itself stays up."""
    parallel_state.destroy_model_parallel()
