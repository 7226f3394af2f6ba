"""The tally: lifetimes, moments, residency and verdicts."""

import pytest
from planner_facts import facts, plan

from gkdplan.planner.drafting import draft
from gkdplan.planner.layout import assign_ranks
from gkdplan.planner.memory.buffer import CONTEXT, Buffer
from gkdplan.planner.memory.buffers import phases_of, price_buffers
from gkdplan.planner.memory.ledger import tally
from gkdplan.planner.offload import host_bytes_per_node, schedule_offload
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Tier, Verdict

PHASES = (Phase.TEACHER, Phase.STUDENT, Phase.OPTIMIZER)


def ledger(*buffers: Buffer, moves: tuple[Move, ...] = (), budget: int = 1000):
    layout = assign_ranks(plan(), facts().device)
    return tally(layout, PHASES, (buffers,), moves, budget, 0, 0)


def rows(ledger, phase: Phase) -> dict[str, int]:
    return dict(ledger.classes[0].phases[phase].rows)


def move(phase: Phase, to_tier: Tier) -> Move:
    away = Tier.HOST if to_tier is Tier.DEVICE else Tier.DEVICE
    return Move(phase, "body", away, to_tier, 10, 0.0)


def test_a_buffer_counts_from_its_first_to_its_last_phase():
    found = ledger(Buffer("payload", 7, Phase.TEACHER, Phase.STUDENT))
    assert [rows(found, phase) for phase in PHASES] == [{"payload": 7}, {"payload": 7}, {}]
    assert (found.peak_bytes, found.peak_phase) == (7, Phase.TEACHER)


def test_buffers_of_different_moments_are_never_summed():
    student = (Phase.STUDENT, Phase.STUDENT)
    found = ledger(
        Buffer("params", 100, Phase.TEACHER, Phase.OPTIMIZER),
        Buffer("activations", 30, *student, "loss"),
        Buffer("loss tiles", 20, *student, "loss"),
        Buffer("activations", 40, *student, "backward"),
    )
    assert rows(found, Phase.STUDENT) == {"params": 100, "activations": 30, "loss tiles": 20}
    assert found.peak_bytes == 150


def test_an_object_is_absent_where_a_move_has_taken_it_away():
    moves = (move(Phase.STUDENT, Tier.DEVICE), move(Phase.OPTIMIZER, Tier.HOST))
    found = ledger(Buffer("body", 10, Phase.TEACHER, Phase.OPTIMIZER), moves=moves)
    assert [rows(found, phase) for phase in PHASES] == [{}, {"body": 10}, {}]


@pytest.mark.parametrize(
    ("num_bytes", "overhead", "verdict"),
    [
        # 80% of 1000; then (1000 - overhead) x 0.94 for what is not overhead.
        (800, 0, Verdict.FITS),
        (801, 0, Verdict.TIGHT),
        (940, 0, Verdict.TIGHT),
        (941, 0, Verdict.OVER),
        (846, 100, Verdict.TIGHT),
        (847, 100, Verdict.OVER),
    ],
)
def test_the_verdict_leaves_room_for_the_allocator(num_bytes, overhead, verdict):
    found = ledger(
        Buffer("params", num_bytes, Phase.TEACHER, Phase.TEACHER),
        Buffer(CONTEXT, overhead, Phase.TEACHER, Phase.TEACHER),
    )
    assert found.verdict is verdict


def offloaded(**tables):
    decided = draft(plan(teacher={"offload": "cpu"}, **tables), facts())
    device = facts().device
    buffers = [price_buffers(decided, ranks, device) for ranks in decided.layout.classes]
    return decided, buffers, schedule_offload(decided, buffers, device)


@pytest.mark.parametrize(("seq_kd", "first"), [(0.5, Phase.GENERATE), (False, Phase.TEACHER)])
def test_the_teacher_is_fetched_before_its_first_use_and_returned_after_its_last(seq_kd, first):
    _, _, (fetch, release) = offloaded(distill={"seq_kd": seq_kd})
    assert (fetch.phase, fetch.from_tier, fetch.to_tier) == (first, Tier.HOST, Tier.DEVICE)
    assert (release.phase, release.to_tier) == (Phase.STUDENT, Tier.HOST)


def test_moves_conserve_bytes_and_only_the_fetch_takes_time():
    decided, buffers, (fetch, release) = offloaded(cluster={"devices_per_node": 2})
    (body,) = (buffer.num_bytes for buffer in buffers[0] if buffer.name == "teacher body")
    assert fetch.num_bytes == release.num_bytes == body
    assert fetch.seconds == pytest.approx(body / (0.8 * facts().device.host_link_bandwidth))
    assert release.seconds == 0
    assert host_bytes_per_node(decided, buffers) == 2 * body


def test_a_plan_that_samples_nothing_has_no_generate_phase():
    decided = draft(plan(generation={"engine": "none"}), facts())
    assert Phase.GENERATE not in phases_of(decided)
