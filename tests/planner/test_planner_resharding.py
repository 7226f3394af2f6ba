"""A teacher with a layout of its own: the step that moves its payload, and what that costs."""

import pytest
from planner_facts import SMOLLM2, TINY, data_file, facts, plan

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.memory.buffer import TEACHER_HEAD
from gkdplan.planner.pricing import price
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Reshard, TeacherForward
from gkdplan.vocab import Payload, Phase

PIPELINE = {
    "cluster": {"devices_per_node": 3, "num_nodes": 2},
    "student": {"model": "student", "dtype": "fp32", "parallel": {"pipeline": 2}},
    "teacher": {"model": "teacher", "parallel": {"pipeline": 1}},
    "batch": {"micro": 1, "global": 6},
}
TWO_RANKS = {"cluster": {"devices_per_node": 2}}
DATA_2_FROM_TENSOR_2 = {**TWO_RANKS, "teacher": {"model": "teacher", "parallel": {"tensor": 2}}}
TENSOR_2_FROM_DATA_2 = {
    **TWO_RANKS,
    "student": {"model": "student", "dtype": "fp32", "parallel": {"tensor": 2}},
    "teacher": {"model": "teacher", "parallel": {"tensor": 1}},
}
STATES = 32 * 576 * 4
"""Bytes of a micro-batch's hidden states: one row of 32 response tokens."""


def compiled(tables: dict, **changes: object) -> RunPlan:
    run_plan = compile_plan(plan(**tables), facts(**changes), tool="test").run_plan
    assert run_plan is not None
    return run_plan


def payloads(tables: dict, phase: Phase) -> list[dict[str | None, int]]:
    """For each class of ranks the bytes of the payload at each moment of a phase."""
    priced = price(plan(**tables), facts(SMOLLM2, SMOLLM2))
    order = list(Phase)
    return [
        {
            buffer.moment: buffer.num_bytes
            for buffer in of_class
            if buffer.name.startswith("payload")
            and order.index(buffer.first) <= order.index(phase) <= order.index(buffer.last)
        }
        for of_class in priced.buffers
    ]


def test_a_payload_travels_only_where_the_layouts_differ():
    same = {**TWO_RANKS, "teacher": {"model": "teacher", "parallel": {"tensor": 1}}}
    assert not any(isinstance(step, Reshard) for step in compiled(same).steps)
    kinds = [type(step) for step in compiled(DATA_2_FROM_TENSOR_2).steps]
    assert kinds[kinds.index(TeacherForward) + 1] is Reshard


@pytest.mark.parametrize(
    ("tables", "payload", "num_bytes"),
    [
        # Of 8 rows of 32 response tokens a data rank learns from 4, in 96 float32 elements a token.
        (DATA_2_FROM_TENSOR_2, Payload.HIDDEN, 4 * 32 * 96 * 4),
        # 500 ids are padded to 512, of which a data rank has all, a tensor rank half.
        (DATA_2_FROM_TENSOR_2, Payload.LOGITS, 4 * 32 * 512 * 4),
        (TENSOR_2_FROM_DATA_2, Payload.LOGITS, 8 * 32 * 256 * 4),
    ],
)
def test_a_rank_with_the_loss_gets_its_rows_and_its_ids(tables, payload, num_bytes):
    steps = compiled({**tables, "distill": {"payload": payload}}).steps
    (reshard,) = (step for step in steps if isinstance(step, Reshard))
    assert reshard == Reshard(payload, num_bytes)


def test_the_teacher_forward_counts_the_teacher_s_own_micro_batches():
    (forward,) = (s for s in compiled(DATA_2_FROM_TENSOR_2).steps if isinstance(s, TeacherForward))
    assert (forward.num_micro_batches, forward.max_tokens) == (4, 8 * 32)


def test_a_payload_is_released_as_it_is_sent():
    # The student ends on ranks 3 to 5, which learn from two rows each; the teacher, without
    # pipeline, on every rank, with one row each, whose states are not there yet in its layers.
    assert payloads(PIPELINE, Phase.TEACHER) == [
        {"payload": STATES, "resharding": STATES},
        {"payload": STATES, "resharding": 3 * STATES},
    ]
    assert payloads(PIPELINE, Phase.STUDENT) == [{}, {None: 2 * STATES}]


def test_ids_that_are_cut_otherwise_are_put_together_beside_the_payload():
    tables = {**DATA_2_FROM_TENSOR_2, "distill": {"payload": "logits"}}
    # Four micro-batches of two rows, 32 response tokens each, of half of the 49,152 ids; a rank
    # keeps two, of all ids, and puts a third copy of one together.
    made, kept = 4 * 64 * 24_576 * 4, 2 * 64 * 49_152 * 4
    travelling = max(made + kept // 2, kept + made // 4) + kept // 2
    assert payloads(tables, Phase.TEACHER) == [
        {"layers": made * 3 // 4, "payload": made, "resharding": travelling}
    ]


@pytest.mark.parametrize(
    ("payload", "num_held_out", "num_rows"),
    [("hidden", 0, 256 + 512), ("logits", 0, 256), ("logits", 8, 256 + 512)],
)
def test_the_loss_has_a_head_of_its_own_where_it_is_cut_otherwise(payload, num_held_out, num_rows):
    """Only where it, or an evaluation, multiplies by one."""
    held_out = (data_file(num_held_out),) if num_held_out else ()
    tables = {**DATA_2_FROM_TENSOR_2, "distill": {"payload": payload}}
    (of_class,) = price(plan(**tables), facts(TINY, TINY, eval=held_out)).buffers
    (head,) = (buffer for buffer in of_class if buffer.name == TEACHER_HEAD)
    assert head.num_bytes == num_rows * 96 * 4


def test_ranks_of_one_stage_of_the_student_own_their_own_shards():
    """Of two data ranks the first ends in the last layers, whose largest piece is smaller."""
    tables = {**TWO_RANKS, "teacher": {"model": "teacher", "parallel": {"pipeline": 2}}}
    ledger = price(plan(**tables), facts(SMOLLM2, SMOLLM2)).ledger
    first, last = (memory.phases[Phase.OPTIMIZER].rows["temporaries"] for memory in ledger.classes)
    assert first < last
