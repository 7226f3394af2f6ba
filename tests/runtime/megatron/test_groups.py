"""A teacher's groups beside the student's: the ranks that Megatron would put in them."""

import pytest
import torch.distributed as dist

from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.runtime.megatron.fake_world import fake_world
from gkdplan.runtime.megatron.groups import partitions
from gkdplan.runtime.megatron.mesh import Mesh, init_teacher_mesh
from gkdplan.vocab import Kernels

DEGREES = {
    "tensor 2 pipeline 2 data 2": AxisDegrees(2, True, 2, pipeline=2),
    "tensor 2 pipeline 4": AxisDegrees(2, True, 1, pipeline=4),
    "context 2 data 4": AxisDegrees(1, False, 4, context=2),
    "tensor 2 expert 2 expert tensor 2": AxisDegrees(2, True, 4, expert=2, expert_tensor=2),
    "expert 4 pipeline 2": AxisDegrees(1, False, 4, pipeline=2, expert=4),
}
NUM_RANKS = 8


def layout_of(student: AxisDegrees, teacher: AxisDegrees) -> Layout:
    return Layout(
        "cpu", "gloo", Kernels.TORCH, 1, NUM_RANKS, NUM_RANKS, student, teacher, classes=()
    )


def ranks_of(mesh: Mesh) -> dict[str, list[int] | None]:
    """The ranks of each group that this rank is in."""
    groups = {field: getattr(mesh.groups, field) for field in partitions(ONE)}
    return {f: g and dist.get_process_group_ranks(g) for f, g in groups.items()}


ONE = AxisDegrees(1, False, NUM_RANKS)


@pytest.mark.parametrize("degrees", DEGREES.values(), ids=DEGREES)
def test_a_second_model_has_the_groups_that_it_would_have_as_the_only_one(degrees):
    """Megatron's parallel_state makes them for the student."""
    for rank in (0, 3, 6):
        with fake_world(layout_of(degrees, degrees), rank, max_nonzero=1) as mesh:
            only = ranks_of(mesh)
        with fake_world(layout_of(ONE, degrees), rank, max_nonzero=1) as mesh:
            assert ranks_of(init_teacher_mesh(layout_of(ONE, degrees), mesh)) == only


def test_models_share_the_groups_that_hold_the_same_ranks():
    student, teacher = AxisDegrees(2, True, 2, pipeline=2), AxisDegrees(2, True, 4)
    layout = layout_of(student, teacher)
    with fake_world(layout, 0, max_nonzero=1) as mesh:
        own = init_teacher_mesh(layout, mesh)
        assert own.groups.tp is mesh.groups.tp
        assert own.groups.dp is not mesh.groups.dp
        assert init_teacher_mesh(layout_of(student, student), mesh) is mesh
