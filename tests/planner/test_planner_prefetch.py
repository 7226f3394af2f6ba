"""Which copies run beside other work, what they hide, and the room that they take."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_facts import facts, plan
from test_planner_offload import H100, STATE, h100

from gkdplan.planner.checks.edits import edits_that_fit
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.drafting import draft
from gkdplan.planner.prefetch import Room
from gkdplan.planner.pricing import price
from gkdplan.planner.timing.exposure import Work, hidden_s
from gkdplan.runplan.schedule import Obstacle
from gkdplan.runplan.steps import Await, Generate, Move, TeacherForward
from gkdplan.vocab import Phase, Tier, Verdict

BODY = "teacher body"
SECONDS = {Phase.GENERATE: 4.0, Phase.TEACHER: 1.0, Phase.STUDENT: 3.0, Phase.OPTIMIZER: 0.5}
WORK = Work(SECONDS, sampled_share=0.25, hides_copies=True)


def come(name: str, seconds: float, phase: Phase, due: Phase | None) -> Move:
    return Move(phase, name, Tier.HOST, Tier.DEVICE, 10, seconds, due)


def leave(seconds: float, due: Phase | None) -> Move:
    return Move(Phase.CHECKPOINT, STATE, Tier.DEVICE, Tier.HOST, 10, seconds, due)


@pytest.mark.parametrize(
    ("moves", "hidden"),
    [
        ([come(BODY, 2, Phase.TEACHER, None)], [0]),
        # generate hides it whole, in the quarter of the steps that has it
        ([come(BODY, 2, Phase.GENERATE, Phase.TEACHER)], [0.25 * 2]),
        ([come(BODY, 6, Phase.GENERATE, Phase.TEACHER)], [0.25 * 4]),
        ([come(STATE, 2, Phase.STUDENT, Phase.OPTIMIZER)], [2]),
        ([come(STATE, 6, Phase.TEACHER, Phase.OPTIMIZER)], [4]),
        # the teacher is due first, and leaves 1 s of generate and the other two phases
        (
            [
                come(STATE, 6, Phase.GENERATE, Phase.OPTIMIZER),
                come(BODY, 3, Phase.GENERATE, Phase.TEACHER),
            ],
            [0.25 * 5 + 0.75 * 4, 0.25 * 3],
        ),
        # the other direction of the link, through the end of a step
        ([come(BODY, 3, Phase.GENERATE, Phase.TEACHER), leave(3, Phase.TEACHER)], [0.75, 0.75]),
        ([leave(2, Phase.STUDENT)], [0.25 * 2 + 0.75 * 1]),
    ],
)
def test_a_copy_is_hidden_as_long_as_the_phases_beside_it_last(moves, hidden):
    assert hidden_s(moves, WORK) == pytest.approx(hidden)
    one_memory = replace(WORK, hides_copies=False)
    assert hidden_s(moves, one_memory) == (0.0,) * len(moves)


def test_the_teacher_comes_while_the_student_samples():
    priced = price(h100(teacher={"offload": "cpu"}, distill={"lmbda": 1.0}), H100)
    fetch, release = priced.moves
    assert (fetch.phase, fetch.due, fetch.beside) == (
        Phase.GENERATE,
        Phase.TEACHER,
        (Phase.GENERATE,),
    )
    assert (fetch.hidden_s, fetch.exposed_s) == (fetch.seconds, 0)
    assert (release.due, release.hidden_s) == (None, 0)
    (memory,) = priced.ledger.classes
    assert BODY in memory.phases[Phase.GENERATE].rows
    half = price(h100(teacher={"offload": "cpu"}, distill={"lmbda": 0.5}), H100).moves[0]
    assert half.exposed_s == pytest.approx(half.seconds / 2)


def test_the_steps_begin_the_copy_before_the_samples_and_await_it_before_the_teacher():
    offload = {"offload": "cpu", "prefetch": True}
    run_plan = compile_plan(plan(teacher=offload, distill={"lmbda": 1.0}), facts(), "test").run_plan
    kinds = [type(step) for step in run_plan.steps]
    assert kinds[1:6] == [Move, Generate, Await, TeacherForward, Move]
    assert run_plan.steps[3] == Await(Phase.TEACHER, BODY)


def test_on_one_memory_only_what_is_asked_is_prefetched_and_hides_nothing():
    sampled = {"lmbda": 1.0}
    left_out = price(plan(teacher={"offload": "cpu"}, distill=sampled), facts())
    assert left_out.moves[0].due is None
    assert left_out.not_prefetched == {BODY: Obstacle.ONE_MEMORY}
    asked = price(plan(teacher={"offload": "cpu", "prefetch": True}, distill=sampled), facts())
    assert (asked.moves[0].phase, asked.moves[0].hidden_s) == (Phase.GENERATE, 0)
    assert asked.not_prefetched == {}
    before, after = (p.ledger.classes[0].phases for p in (left_out, asked))
    grown = {phase for phase in before if after[phase] != before[phase]}
    assert grown == {Phase.GENERATE}
    body_bytes = asked.moves[0].num_bytes
    assert after[Phase.GENERATE].rows == {**before[Phase.GENERATE].rows, BODY: body_bytes}


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"teacher": {"offload": "cpu", "prefetch": False}}, Obstacle.NOT_WANTED),
        ({"teacher": {"offload": "cpu"}, "distill": {"lmbda": 0.0}}, Obstacle.NOTHING_BEFORE),
        (
            {"teacher": {"offload": "cpu"}, "distill": {"lmbda": 0.5, "seq_kd": 1.0}},
            Obstacle.NOTHING_BEFORE,
        ),
    ],
)
def test_a_teacher_that_is_waited_for_says_why(tables, why):
    priced = price(h100(**tables), H100)
    assert priced.moves[0].due is None
    assert priced.not_prefetched == {BODY: why}


def test_an_engine_that_wakes_is_waited_for():
    generation = {"engine": "vllm", "tensor": 2, "sleep_level": 1, "gpu_memory_utilization": 0.3}
    assert price(h100(generation=generation), H100).not_prefetched == {
        "vllm weights": Obstacle.OF_THE_ENGINE
    }


def limited(gib: float, **teacher: object):
    """A step whose fullest phase is the one that samples: short rows learn, many are sampled."""
    cluster = {"device": "h100-80gb", "devices_per_node": 2, "memory_limit": f"{gib} GiB"}
    tables = {"cluster": cluster, "distill": {"lmbda": 1.0}, "batch": {"micro": 1, "global": 512}}
    return price(h100(length=64, teacher={"offload": "cpu", **teacher}, **tables), H100)


def test_no_prefetch_takes_the_peak_past_what_is_safe():
    waiting, wide = limited(79, prefetch=False), limited(79)
    before, after = (p.ledger.classes[0].phases[Phase.GENERATE] for p in (waiting, wide))
    assert wide.moves[0].due is Phase.TEACHER
    assert after.peak_bytes == before.peak_bytes + wide.moves[0].num_bytes
    assert wide.ledger.peak_bytes == after.peak_bytes > waiting.ledger.peak_bytes
    just_safe = after.peak_bytes / 0.8 / 2**30
    assert limited(round(just_safe + 0.01, 3)).moves[0].due is Phase.TEACHER
    tight = limited(round(just_safe - 0.01, 3))
    assert tight.moves[0].due is None
    assert tight.not_prefetched == {BODY: Obstacle.NO_ROOM}
    assert limited(round(just_safe - 0.01, 3), prefetch=True).moves[0].due is Phase.TEACHER


def test_every_class_must_have_room():
    """The first stage alone would have room: the other has more of the teacher."""
    stages = {"pipeline": 2, "stage_layers": (18, 18)}
    tables = {"student": {"dtype": "bf16", "parallel": {"tensor": 1, **stages}}}
    tables["teacher"] = {"parallel": {"pipeline": 2, "stage_layers": (10, 18)}}
    tables["distill"], tables["batch"] = {"lmbda": 1.0}, {"micro": 1, "global": 512}

    def of(gib: float):
        cluster = {"device": "h100-80gb", "devices_per_node": 2, "memory_limit": f"{gib} GiB"}
        teacher = {**tables["teacher"], "offload": "cpu"}
        return price(h100(length=64, **{**tables, "cluster": cluster, "teacher": teacher}), H100)

    wide = of(79)
    first, last = (memory.phases[Phase.GENERATE].peak_bytes for memory in wide.ledger.classes)
    assert wide.moves[0].due is Phase.TEACHER
    assert first < last
    assert wide.ledger.peak_phase is Phase.GENERATE
    assert of(round(last / 0.8 / 2**30 - 0.01, 3)).moves[0].due is None


@pytest.mark.parametrize("micro", [1, 4])
def test_the_room_that_is_reckoned_is_what_the_ledger_counts(micro):
    both = {"teacher": {"offload": "cpu"}, "optimizer": {"offload": "cpu"}}
    early = price(h100(micro, distill={"lmbda": 1.0}, **both), H100)
    assert len([move for move in early.moves if move.due]) == 3
    asked = {name: {"offload": "cpu", "prefetch": False} for name in both}
    waiting = price(h100(micro, distill={"lmbda": 1.0}, **asked), H100)
    room = Room(waiting.ledger, waiting.buffers)
    assert room.peak_bytes(early.moves) == early.ledger.peak_bytes
    assert room.peak_bytes(waiting.moves) == waiting.ledger.peak_bytes
    for move in early.moves:
        for phase in set(move.beside) - {Phase.REFIT}:
            assert move.object in early.ledger.classes[0].phases[phase].rows


def test_the_optimizer_state_goes_home_beside_the_next_step_and_is_away_in_between():
    priced = price(h100(optimizer={"offload": "cpu"}, distill={"lmbda": 1.0}), H100)
    moves = {move.to_tier: move for move in priced.moves if move.object == STATE}
    assert (moves[Tier.DEVICE].phase, moves[Tier.DEVICE].due) == (Phase.STUDENT, Phase.OPTIMIZER)
    assert (moves[Tier.HOST].phase, moves[Tier.HOST].due) == (Phase.CHECKPOINT, Phase.TEACHER)
    assert all(move.exposed_s == 0 for move in moves.values())
    (memory,) = priced.ledger.classes
    away = [phase for phase, in_phase in memory.phases.items() if STATE not in in_phase.rows]
    assert away == [Phase.TEACHER]


def test_auto_counts_only_what_is_exposed():
    opened = h100(teacher={"offload": "auto"}, distill={"lmbda": 1.0})
    nothing, teacher, _ = price(opened, H100).choices
    assert (nothing.exposed_s, teacher.exposed_s) == (0, 0)
    waiting = h100(teacher={"offload": "auto", "prefetch": False}, distill={"lmbda": 1.0})
    assert price(waiting, H100).choices[1].exposed_s > 0.1


def test_an_edit_that_keeps_the_teacher_there_removes_its_prefetch():
    small_host = replace(H100, device=replace(H100.device, host_memory_bytes_per_node=1))
    offload = {"offload": "cpu", "prefetch": False}
    descriptions = [e.description for e in edits_that_fit(h100(teacher=offload), small_host)]
    assert 'set `teacher.offload` to "none" and remove `teacher.prefetch`' in descriptions


def test_what_was_asked_is_in_the_draft_and_changes_no_run():
    decided = draft(plan(teacher={"offload": "cpu", "prefetch": False}), facts())
    assert decided.models.teacher.prefetch is False
    first, second = (
        compile_plan(plan(teacher={"offload": "cpu", **asked}), facts(), "test").run_plan
        for asked in ({}, {"prefetch": False})
    )
    assert first.fingerprint == second.fingerprint


@given(
    micro=st.sampled_from([1, 4, 8, 16]),
    lmbda=st.sampled_from([0.0, 0.3, 1.0]),
    limit_gib=st.integers(20, 79),
)
@settings(max_examples=25)
def test_a_prefetch_saves_time_and_costs_no_verdict(micro, lmbda, limit_gib):
    def offloaded(prefetch):
        cluster = {"memory_limit": f"{limit_gib} GiB"}
        table = {"offload": "cpu", "prefetch": prefetch}
        tables = {"cluster": cluster, "distill": {"lmbda": lmbda}}
        return price(h100(micro, teacher=table, optimizer=table, **tables), H100)

    free, waiting = offloaded(None), offloaded(False)
    exposed_s = [sum(move.exposed_s for move in found.moves) for found in (free, waiting)]
    assert exposed_s[0] <= exposed_s[1]
    assert free.ledger.verdict is waiting.ledger.verdict
    if free.ledger.verdict is not Verdict.FITS:
        assert free.ledger.peak_bytes == waiting.ledger.peak_bytes
