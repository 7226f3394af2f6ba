"""What waits on the host, what its moves cost, and what an offload of "auto" becomes."""

from dataclasses import replace

import pytest
from planner_facts import QWEN_3B, QWEN_7B, facts, plan

from gkdplan.planner.auto_offload import cheapest, without_auto
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.pricing import price
from gkdplan.runplan.schedule import OffloadChoice
from gkdplan.vocab import Phase, Tier, Verdict

H100 = facts(QWEN_3B, QWEN_7B, "h100-80gb")
STATE = "student main + Adam"


def h100(micro=1, length=1536, **tables):
    base = {
        "cluster": {"device": "h100-80gb", "devices_per_node": 2},
        "student": {"dtype": "bf16", "parallel": {"tensor": 2}},
        "data": {"max_length": length},
        "generation": {"max_completion_length": 512},
        "batch": {"micro": micro, "global": 16},
    }
    return plan(**{name: {**base.get(name, {}), **tables.get(name, {})} for name in base | tables})


def test_the_optimizer_state_visits_the_device_for_the_update_and_is_copied_both_ways():
    priced = price(h100(optimizer={"offload": "cpu", "prefetch": False}), H100)
    come, leave = priced.moves
    assert (come.phase, come.from_tier, come.to_tier) == (Phase.OPTIMIZER, Tier.HOST, Tier.DEVICE)
    assert (leave.phase, leave.from_tier, leave.to_tier) == (
        Phase.CHECKPOINT,
        Tier.DEVICE,
        Tier.HOST,
    )
    # PCIe 5 at 80%: 0.8 x 64 GB/s
    assert come.seconds == leave.seconds == pytest.approx(come.num_bytes / 51.2e9)
    (memory,) = priced.ledger.classes
    with_state = {phase for phase, found in memory.phases.items() if STATE in found.rows}
    assert with_state == {Phase.OPTIMIZER}
    # 12 bytes a parameter on the host, of half of the matrices on each of two ranks
    assert priced.ledger.host_bytes_per_node == 2 * come.num_bytes
    assert come.num_bytes == pytest.approx(12 * QWEN_3B.num_parameters / 2, rel=1e-3)


def test_moves_follow_the_phases_of_a_step():
    waited_for = {"offload": "cpu", "prefetch": False}
    both = h100(teacher=waited_for, optimizer=waited_for)
    order = [(move.phase, move.object, move.to_tier) for move in price(both, H100).moves]
    assert order == [
        (Phase.TEACHER, "teacher body", Tier.DEVICE),
        (Phase.STUDENT, "teacher body", Tier.HOST),
        (Phase.OPTIMIZER, STATE, Tier.DEVICE),
        (Phase.CHECKPOINT, STATE, Tier.HOST),
    ]


def test_the_steps_carry_every_move_once_before_the_steps_of_its_phase():
    edited = plan(optimizer={"offload": "cpu"})
    run_plan = compile_plan(edited, facts(), "test").run_plan
    kinds = [type(step).__name__ for step in run_plan.steps]
    assert kinds[-4:] == ["Move", "OptimizerStep", "Move", "Checkpoint"]


def choice(verdict, peak, seconds):
    return OffloadChoice((), verdict, peak, 0, seconds)


@pytest.mark.parametrize(
    ("choices", "best"),
    [
        ([(Verdict.FITS, 70, 0.0), (Verdict.FITS, 50, 0.1)], 0),
        ([(Verdict.TIGHT, 90, 0.0), (Verdict.FITS, 50, 0.3), (Verdict.FITS, 60, 0.1)], 2),
        ([(Verdict.OVER, 99, 0.0), (Verdict.TIGHT, 90, 0.3), (Verdict.TIGHT, 80, 0.4)], 1),
        ([(Verdict.OVER, 99, 0.0), (Verdict.OVER, 97, 0.3), (Verdict.OVER, 98, 0.1)], 1),
    ],
)
def test_the_best_verdict_at_the_least_transfer_is_chosen(choices, best):
    assert cheapest([choice(*found) for found in choices]) == best


def test_auto_becomes_every_place_and_leaves_the_rest_alone():
    opened = h100(teacher={"offload": "auto"}, optimizer={"offload": "cpu"})
    places = [(p.teacher.offload, p.optimizer.offload) for p in without_auto(opened)]
    assert places == [("none", "cpu"), ("cpu", "cpu")]


AUTO = {"teacher": {"offload": "auto"}, "optimizer": {"offload": "auto"}}


@pytest.mark.parametrize("micro", [1, 4, 8, 16])
def test_auto_is_the_cheapest_of_the_four_schedules_written_out(micro):
    written = [
        price(h100(micro, teacher={"offload": t}, optimizer={"offload": o}), H100)
        for t in ("none", "cpu")
        for o in ("none", "cpu")
    ]
    order = [Verdict.FITS, Verdict.TIGHT, Verdict.OVER]
    best = min(order.index(found.ledger.verdict) for found in written)
    of_best = [found for found in written if order.index(found.ledger.verdict) == best]
    if order[best] is Verdict.OVER:
        expected = min(of_best, key=lambda found: found.ledger.peak_bytes)
    else:
        expected = min(of_best, key=lambda found: sum(m.exposed_s for m in found.moves))
    chosen = price(h100(micro, **AUTO), H100)
    assert (chosen.moves, chosen.ledger) == (expected.moves, expected.ledger)
    assert [found.peak_bytes for found in chosen.choices] == [p.ledger.peak_bytes for p in written]


def test_auto_offloads_nothing_where_that_fits_and_says_so():
    compiled = compile_plan(plan(**AUTO), facts(), "test")
    assert compiled.run_plan.schedule.moves == ()
    assert len(compiled.run_plan.schedule.choices) == 4
    (found,) = [finding for finding in compiled.diagnostics if finding.code == "GK307"]
    assert "`auto` is nothing to the host" in found.message
    assert len(found.notes) == 4


def test_a_schedule_that_the_host_cannot_hold_is_not_chosen():
    small_host = replace(facts(), device=replace(facts().device, host_memory_bytes_per_node=1))
    nothing, teacher = price(plan(teacher={"offload": "auto"}), small_host).choices
    assert (nothing.verdict, teacher.verdict) == (Verdict.FITS, Verdict.OVER)
