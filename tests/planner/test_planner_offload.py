"""What waits on the host, what its moves cost, and what an offload of "auto" becomes."""

from dataclasses import replace

import pytest
from planner_facts import QWEN_3B, QWEN_7B, facts, plan

from gkdplan.planner.auto_offload import cheapest, place_of, without_auto
from gkdplan.planner.checks.edits import edits_that_fit
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.drafting import draft
from gkdplan.planner.pricing import price
from gkdplan.planner.search.searching import search
from gkdplan.planner.timing.prediction import exposed_stream_s
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
    found = [(place_of(p, "teacher"), p.optimizer.offload) for p in without_auto(opened)]
    assert found == [("none", "cpu"), ("cpu", "cpu"), ("stream", "cpu")]


@pytest.mark.parametrize(
    "tables",
    [
        {"teacher": {"offload": "auto"}, "distill": {"lmbda": 0.5, "seq_kd": True}},
        {"teacher": {"offload": "auto", "prefetch": True}},
        {"teacher": {"offload": "auto", "self": "ema", "model": None}},
    ],
    ids=["it samples", "it is prefetched whole", "it is the student's average"],
)
def test_auto_streams_no_teacher_that_cannot_be(tables):
    assert [place_of(p, "teacher") for p in without_auto(h100(**tables))] == ["none", "cpu"]


def test_auto_lets_the_student_rest_in_every_way():
    opened = h100(student={"offload": "auto"})
    assert [p.student.offload for p in without_auto(opened)] == ["none", "grads", "cpu"]


def test_of_schedules_that_fit_the_one_that_costs_nothing_is_chosen():
    """Gradients that are dropped cost no time, and are kept where all fits anyway."""
    wide = price(h100(student={"offload": "auto"}), H100)
    assert wide.choices[1].exposed_s == 0 < wide.choices[2].exposed_s
    assert wide.draft.models.student.idle_grads is Tier.DEVICE


def test_a_streamed_teacher_is_waited_for_within_its_forward():
    opened = h100(teacher={"offload": "auto"})
    nothing, _, streamed = price(opened, H100).choices
    assert streamed.peak_bytes < nothing.peak_bytes
    decided = draft(h100(teacher={"offload": "cpu", "stream": True}), H100)
    assert streamed.exposed_s == exposed_stream_s(decided, H100.device) > 0


AUTO = {"teacher": {"offload": "auto"}, "optimizer": {"offload": "auto"}}


@pytest.mark.parametrize("micro", [1, 4, 8, 16])
def test_auto_is_the_cheapest_of_the_schedules_written_out(micro):
    streamed = {"offload": "cpu", "stream": True}
    written = [
        price(h100(micro, teacher=teacher, optimizer={"offload": o}), H100)
        for teacher in ({"offload": "none"}, {"offload": "cpu"}, streamed)
        for o in ("none", "cpu")
    ]

    def exposed_s(found):
        stream_s = exposed_stream_s(found.draft, H100.device)
        return sum(m.exposed_s for m in found.moves) + stream_s

    order = [Verdict.FITS, Verdict.TIGHT, Verdict.OVER]
    best = min(order.index(found.ledger.verdict) for found in written)
    of_best = [found for found in written if order.index(found.ledger.verdict) == best]
    if order[best] is Verdict.OVER:
        expected = min(of_best, key=lambda found: found.ledger.peak_bytes)
    else:
        expected = min(of_best, key=exposed_s)
    chosen = price(h100(micro, **AUTO), H100)
    assert (chosen.moves, chosen.ledger) == (expected.moves, expected.ledger)
    assert [found.peak_bytes for found in chosen.choices] == [p.ledger.peak_bytes for p in written]


def test_auto_offloads_nothing_where_that_fits_and_says_so():
    compiled = compile_plan(plan(**AUTO), facts(), "test")
    assert compiled.run_plan.schedule.moves == ()
    assert len(compiled.run_plan.schedule.choices) == 6
    (found,) = [finding for finding in compiled.diagnostics if finding.code == "GK307"]
    assert "`auto` is nothing off the device" in found.message
    assert len(found.notes) == 6


def test_a_schedule_that_the_host_cannot_hold_is_not_chosen():
    small_host = replace(facts(), device=replace(facts().device, host_memory_bytes_per_node=1))
    nothing, *others = price(plan(teacher={"offload": "auto"}), small_host).choices
    assert nothing.verdict is Verdict.FITS
    assert [other.verdict for other in others] == [Verdict.OVER] * 2


@pytest.mark.parametrize(
    ("engine", "lmbda", "leaves"),
    [
        ({"engine": "none"}, 0.0, Phase.TEACHER),
        ({"engine": "megatron"}, 0.5, Phase.TEACHER),
        ({"engine": "vllm"}, 0.5, Phase.GENERATE),
        (
            {"engine": "vllm", "mode": "server", "server_url": "http://host:1", "staleness": 1},
            0.5,
            Phase.TEACHER,
        ),
    ],
    ids=["nothing samples", "its own modules sample", "vllm samples", "vllm samples ahead"],
)
def test_the_students_weights_leave_when_nothing_reads_them_any_more(engine, lmbda, leaves):
    tables = {"generation": engine, "distill": {"lmbda": lmbda}, "student": {"offload": "cpu"}}
    priced = price(h100(**tables), H100)
    moves = [(m.object, m.phase, m.to_tier) for m in priced.moves if m.object.startswith("student")]
    assert moves == [
        ("student params", leaves, Tier.HOST),
        ("student params", Phase.STUDENT, Tier.DEVICE),
        ("student grads", Phase.STUDENT, Tier.DEVICE),
        ("student grads", Phase.CHECKPOINT, Tier.DROPPED),
    ]
    (memory,) = priced.ledger.classes
    rows = {phase: in_phase.rows for phase, in_phase in memory.phases.items()}
    assert {p for p in rows if "student grads" in rows[p]} == {Phase.STUDENT, Phase.OPTIMIZER}
    assert "student params" not in rows[Phase.TEACHER]
    assert all("student params" in rows[p] for p in (Phase.STUDENT, Phase.CHECKPOINT))
    whole = price(h100(**tables | {"student": {}}), H100).ledger.classes[0].phases
    params = whole[Phase.TEACHER].rows["student params"]
    assert priced.ledger.host_bytes_per_node == 2 * params


def test_adapters_whose_base_leaves_have_a_teacher_of_their_own():
    tables = {"student": {"model": "same", "tuning": "lora"}, "teacher": {"model": "same"}}
    same = facts(QWEN_3B, QWEN_3B, "h100-80gb")
    assert draft(h100(**tables), same).models.teacher.is_students_base
    tables["student"]["offload"] = "cpu"
    assert not draft(h100(**tables), same).models.teacher.is_students_base


SAMPLED_ASLEEP = {
    "cluster": {"device": "h100-80gb", "devices_per_node": 2, "memory_limit": "78 GiB"},
    "generation": {"engine": "vllm", "gpu_memory_utilization": 0.5, "sleep_level": 2},
    "distill": {"lmbda": 1.0},
}
"""While vllm works beside all that training keeps is the fullest moment of a step."""


def test_an_edit_drops_the_gradients_and_auto_does_so_itself():
    edits = edits_that_fit(h100(**SAMPLED_ASLEEP), H100)
    assert 'set `student.offload` to "grads"' in [edit.description for edit in edits]
    nothing, grads, _ = price(h100(**SAMPLED_ASLEEP, student={"offload": "auto"}), H100).choices
    assert nothing.verdict is Verdict.OVER
    assert grads.verdict is not Verdict.OVER
    chosen = price(h100(**SAMPLED_ASLEEP, student={"offload": "auto"}), H100)
    assert chosen.draft.models.student.idle_grads is Tier.DROPPED
    assert chosen.draft.models.student.idle_params is Tier.DEVICE


def test_an_edit_streams_a_teacher_that_is_larger_than_the_device():
    alone = {"cluster": {"device": "h100-80gb", "devices_per_node": 1}, "student": {"parallel": {}}}
    small = facts(QWEN_3B, replace(QWEN_7B, num_layers=280), "h100-80gb")
    edits = edits_that_fit(h100(length=128, **alone | {"optimizer": {"offload": "cpu"}}), small)
    wanted = 'set `teacher.offload` to "cpu" and `teacher.stream` to true'
    assert wanted in [edit.description for edit in edits]


def test_a_search_that_finds_nothing_streams_and_lets_the_student_rest():
    alone = {"cluster": {"device": "h100-80gb", "devices_per_node": 1}, "student": {"parallel": {}}}
    tall = facts(QWEN_3B, replace(QWEN_7B, num_layers=280), "h100-80gb")
    found = search(h100(length=128, **alone), tall, top=2)
    assert found.ranking.options
    for option, drawn in zip(found.ranking.options, found.plans, strict=True):
        changes = dict(option.changes)
        assert (changes["teacher.offload"], changes["teacher.stream"]) == ("cpu", True)
        assert changes["student.offload"] in ("grads", "cpu")
        assert price(drawn, tall).ledger.peak_bytes == option.peak_bytes
        assert option.verdict is not Verdict.OVER


def test_a_search_that_finds_something_streams_nothing():
    found = search(h100(length=128), H100, top=2)
    assert not any("teacher.stream" in dict(option.changes) for option in found.ranking.options)
