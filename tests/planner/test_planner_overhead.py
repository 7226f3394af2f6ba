"""What lies outside the allocator: a context, and a communicator for each group in use."""

from dataclasses import replace

import pytest
from planner_facts import QWEN_3B, QWEN_7B, facts, plan

from gkdplan.planner.drafting import draft
from gkdplan.planner.memory.overhead import groups
from gkdplan.planner.pricing import price
from gkdplan.runplan.layout import AxisDegrees, Layout
from gkdplan.vocab import Kernels

H100 = facts(QWEN_3B, QWEN_7B, "h100-80gb")


def layout(world_size: int, student: AxisDegrees, teacher: AxisDegrees | None = None) -> Layout:
    kernels = Kernels.TRANSFORMER_ENGINE
    return Layout("h100-80gb", "nccl", kernels, 1, 8, world_size, student, teacher or student, ())


ALWAYS = ["all ranks", "data", "gradient norm"]
"""Of one rank too."""


@pytest.mark.parametrize(
    ("found", "others"),
    [
        (layout(1, AxisDegrees(1, False, 1)), []),
        (layout(4, AxisDegrees(1, False, 4)), []),
        (layout(4, AxisDegrees(4, True, 1)), ["tensor"]),
        (layout(2, AxisDegrees(1, False, 1, context=2)), ["context"]),
        (
            layout(16, AxisDegrees(2, True, 2, pipeline=2, context=2)),
            ["context", "embedding", "pipeline", "tensor"],
        ),
        (
            layout(8, AxisDegrees(2, True, 4, expert=4)),
            ["expert", "expert data", "experts of a token", "tensor"],
        ),
        # a teacher of another tensor degree talks in other groups, and reduces no gradients
        (layout(8, AxisDegrees(2, True, 4), AxisDegrees(4, True, 2)), ["tensor", "tensor"]),
    ],
)
def test_a_rank_has_a_communicator_for_each_group_it_talks_in(found, others):
    drawn = draft(plan(), H100)
    names = [str(group[0]) for group in groups(found, drawn.models, drawn.optimizer)]
    assert sorted(names) == sorted(ALWAYS + others)


def rows(device_facts, **tables):
    (memory,) = price(plan(**tables), device_facts).ledger.classes
    return next(iter(memory.phases.values())).rows


def test_the_terms_are_named_rows_of_the_device_table():
    tables = {
        "cluster": {"device": "h100-80gb", "devices_per_node": 4},
        "student": {"dtype": "bf16", "parallel": {"tensor": 2}},
    }
    found = rows(H100, **tables)
    assert found["overhead (context)"] == 3 * 2**28
    assert found["overhead (nccl)"] == 4 * 2**29  # all ranks, tensor, data, gradient norm


def test_a_single_gpu_has_the_communicators_of_gradients_and_a_cpu_nothing():
    single = rows(H100, cluster={"device": "h100-80gb"}, student={"dtype": "bf16"})
    assert single["overhead (nccl)"] == 3 * 2**29
    unclipped = {"cluster": {"device": "h100-80gb"}, "optimizer": {"clip_grad": 0.0}}
    assert rows(H100, **unclipped)["overhead (nccl)"] == 2 * 2**29
    assert not any(name.startswith("overhead") for name in rows(facts()))


def test_a_group_is_counted_with_the_table_of_its_device():
    costly = replace(H100, device=replace(H100.device, communicator_bytes=10, context_bytes=1))
    two = {"device": "h100-80gb", "devices_per_node": 2}
    found = rows(costly, cluster=two, student={"dtype": "bf16"})
    assert (found["overhead (context)"], found["overhead (nccl)"]) == (1, 30)
