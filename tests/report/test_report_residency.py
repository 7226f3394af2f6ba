import json
from dataclasses import replace

import pytest
from test_report_page import Page

from gkdplan.report.memory import memory_report
from gkdplan.report.page import lock_page
from gkdplan.report.residency import timeline, timeline_json
from gkdplan.report.residency_chart import residency_timeline
from gkdplan.runplan.ledger import ClassMemory, PhaseMemory
from gkdplan.runplan.schedule import Obstacle, Schedule
from gkdplan.runplan.steps import Move
from gkdplan.vocab import Phase, Tier

MiB = 2**20


def scenes_of(run_plan):
    return timeline(run_plan, run_plan.ledger.fullest_class)


def in_mib(rows):
    return {name: num_bytes / MiB for name, num_bytes in rows.items()}


def with_optimizer_away(run_plan):
    """The optimizer's state comes for its update and is copied back after it."""
    name, size = "student main + Adam", 560 * MiB
    moves = (
        *run_plan.schedule.moves,
        Move(Phase.OPTIMIZER, name, Tier.HOST, Tier.DEVICE, size, 0.1),
        Move(Phase.CHECKPOINT, name, Tier.DEVICE, Tier.HOST, size, 0.1),
    )
    (memory,) = run_plan.ledger.classes
    phases = {
        phase: in_phase
        if phase is Phase.OPTIMIZER
        else replace(in_phase, rows={n: b for n, b in in_phase.rows.items() if n != name})
        for phase, in_phase in memory.phases.items()
    }
    ledger = replace(run_plan.ledger, classes=(replace(memory, phases=phases),))
    return replace(run_plan, schedule=Schedule(moves), ledger=ledger)


def test_the_scenes_are_the_phases_with_their_moves_before_them(run_plan):
    told = [(scene.phase, scene.move and scene.move.to_tier) for scene in scenes_of(run_plan)]
    assert told == [
        (Phase.GENERATE, Tier.DEVICE),
        (Phase.GENERATE, None),
        (Phase.TEACHER, None),
        (Phase.STUDENT, Tier.HOST),
        (Phase.STUDENT, None),
        (Phase.OPTIMIZER, None),
        (Phase.CHECKPOINT, None),
    ]


def test_a_moving_object_lies_beside_what_outlives_the_phase(run_plan):
    fetch, _, _, leave, *_ = scenes_of(run_plan)
    resident = {
        "student params": 280.0,
        "student grads": 280.0,
        "student main + Adam": 560.0,
        "teacher head": 108.0,
        "teacher body": 405.0,
    }
    assert in_mib(fetch.device) == resident
    # the payload is made in the teacher's phase and read in the student's; activations are not
    assert in_mib(leave.device) == {**resident, "payload (hidden)": 2.0}


def test_a_phase_has_the_rows_of_the_ledger(run_plan):
    (memory,) = run_plan.ledger.classes
    for scene in scenes_of(run_plan):
        if scene.move is None:
            assert scene.device == memory.phases[scene.phase].rows


def test_an_object_that_returns_without_a_copy_never_left_the_host(run_plan):
    assert [in_mib(scene.host) for scene in scenes_of(run_plan)] == [{"teacher body": 405.0}] * 7


def test_an_object_that_is_copied_back_is_at_one_place_between_its_moves(run_plan):
    scenes = scenes_of(with_optimizer_away(run_plan))
    name = "student main + Adam"
    places = [
        (scene.phase, bool(scene.move), name in scene.device, name in scene.host)
        for scene in scenes
        if scene.phase in (Phase.STUDENT, Phase.OPTIMIZER, Phase.CHECKPOINT)
        and (scene.move is None or scene.move.object == name)
    ]
    assert places == [
        (Phase.STUDENT, False, False, True),
        (Phase.OPTIMIZER, True, True, True),
        (Phase.OPTIMIZER, False, True, False),
        (Phase.CHECKPOINT, True, True, True),
        (Phase.CHECKPOINT, False, False, True),
    ]


def test_another_object_that_is_there_counts_while_one_moves(run_plan):
    moves = (
        Move(Phase.TEACHER, "teacher body", Tier.HOST, Tier.DEVICE, 405 * MiB, 0.1),
        Move(Phase.TEACHER, "teacher head", Tier.HOST, Tier.DEVICE, 108 * MiB, 0.1),
        Move(Phase.STUDENT, "teacher head", Tier.DEVICE, Tier.HOST, 108 * MiB, 0.0),
        Move(Phase.STUDENT, "teacher body", Tier.DEVICE, Tier.HOST, 405 * MiB, 0.0),
    )
    scenes = [s for s in scenes_of(replace(run_plan, schedule=Schedule(moves))) if s.move]
    beside = [{n for n in ("teacher body", "teacher head") if n in s.device} for s in scenes]
    both = {"teacher body", "teacher head"}
    assert beside == [{"teacher body"}, both, both, {"teacher body"}]


@pytest.mark.parametrize("change", [lambda plan: plan, with_optimizer_away])
def test_no_move_needs_more_than_the_phases_beside_it(run_plan, change):
    changed = change(run_plan)
    (memory,) = changed.ledger.classes
    phases = list(memory.phases)
    for scene in scenes_of(changed):
        beside = (phases[phases.index(scene.phase) - 1], scene.phase)
        assert scene.device_bytes <= max(memory.phases[phase].peak_bytes for phase in beside)


def test_the_scenes_as_json_are_those_of_the_fullest_rank(run_plan):
    scenes = timeline_json(run_plan)
    assert [(scene["phase"], scene["move"]) for scene in scenes[:3]] == [
        ("generate", "teacher body"),
        ("generate", None),
        ("teacher", None),
    ]
    assert scenes[0]["device_bytes"] == 1633 * MiB  # 280 + 280 + 560 + 108 + 405
    assert scenes[0]["host"] == {"teacher body": 405 * MiB}
    assert json.loads(json.dumps(scenes)) == scenes


def test_each_move_is_listed_with_all_that_is_on_the_device(run_plan):
    lines = memory_report(run_plan, 80).splitlines()[-3:]
    assert lines[0].split()[-4:] == ["MiB", "copy", "exposed", "device"]
    assert lines[1].split()[-6:] == ["405.0", "0.042", "s", "0.042", "s", "1,633.0"]  # 1228 + 405
    assert lines[2].split()[-5:] == ["405.0", "no", "copy", "-", "1,635.0"]  # 1230 + 405


def prefetched(run_plan):
    """Nobody samples but the student; the teacher comes meanwhile, in half of the steps hidden."""
    fetch, give_back = run_plan.schedule.moves
    early = replace(fetch, due=Phase.TEACHER, hidden_s=0.021)
    return replace(run_plan, schedule=Schedule((early, give_back)))


def test_what_is_prefetched_is_listed_with_the_phase_it_begins_in_and_what_is_exposed(run_plan):
    report = memory_report(prefetched(run_plan), 80)
    (line,) = (line for line in report.splitlines() if "prefetch teacher body" in line)
    peak = run_plan.ledger.classes[0].phases[Phase.GENERATE].peak_bytes
    assert line.split() == [
        *["from", "generate", "prefetch", "teacher", "body", "405.0", "0.042", "s", "0.021", "s"],
        f"{peak / MiB:,.1f}",
    ]


def test_a_copy_beside_a_phase_is_no_scene_of_its_own_and_is_hatched_in_that_phase(run_plan):
    scenes = scenes_of(prefetched(run_plan))
    assert [(s.phase, s.move is not None) for s in scenes[:3]] == [
        (Phase.GENERATE, False),
        (Phase.TEACHER, False),
        (Phase.STUDENT, True),
    ]
    assert [[m.object for m in s.under_way] for s in scenes[:2]] == [["teacher body"], []]
    assert timeline_json(prefetched(run_plan))[0]["under_way"] == ["teacher body"]
    (memory,) = run_plan.ledger.classes
    page = Page(residency_timeline(prefetched(run_plan), memory))
    assert len(page.of_class("hatch")) == 3  # at both ends of the copy, and where it is freed
    assert {"prefetch teacher", "0.042 s", "0.021 s exposed"} <= set(page.text)


def test_what_is_copied_out_into_the_next_step_lies_at_both_ends_until_then(run_plan):
    away = with_optimizer_away(run_plan)
    *others, leave = away.schedule.moves
    late = replace(away, schedule=Schedule((*others, replace(leave, due=Phase.TEACHER))))
    scenes = {(s.phase, s.move): s for s in scenes_of(late)}
    for phase in (Phase.CHECKPOINT, Phase.GENERATE):
        assert "student main + Adam" in scenes[phase, None].host
        assert [m.object for m in scenes[phase, None].under_way] == ["student main + Adam"]
    fetch = late.schedule.moves[0]
    assert "student main + Adam" in scenes[Phase.GENERATE, fetch].device
    assert scenes[Phase.TEACHER, None].under_way == ()


def test_a_copy_that_is_waited_for_says_why(run_plan):
    moves = run_plan.schedule.moves
    why = {"teacher body": Obstacle.ONE_MEMORY}
    waiting = replace(run_plan, schedule=Schedule(moves, not_prefetched=why))
    sentence = "teacher body is not prefetched: device and host are one memory"
    assert memory_report(waiting, 80).endswith(sentence)
    assert sentence in Page(lock_page(waiting)).text


def test_the_verdict_on_the_host_and_the_overhead_by_name_stand_with_the_timeline(run_plan):
    phases = {
        phase: replace(in_phase, rows={**in_phase.rows, "overhead (context)": MiB})
        for phase, in_phase in run_plan.ledger.classes[0].phases.items()
    }
    memory = replace(run_plan.ledger.classes[0], phases=phases)
    small = replace(run_plan.ledger, classes=(memory,), host_budget_bytes_per_node=512 * MiB)
    text = memory_report(replace(run_plan, ledger=small), 80)
    assert "host over: 810.0 MiB of 512.0 MiB a node" in " ".join(text.split())
    assert "overhead (context)" in text
    page = Page(lock_page(replace(run_plan, ledger=small)))
    assert "host over: 810.0 MiB of 512.0 MiB a node" in page.text
    assert "overhead (context): 1.0 MiB" in page.text


def test_a_picture_has_every_block_to_scale_and_hatches_what_moves(run_plan):
    (memory,) = run_plan.ledger.classes
    page = Page(residency_timeline(run_plan, memory))
    scenes = scenes_of(run_plan)
    heights = [float(a["height"]) for a in page.of_class("block")]
    sizes = [
        num_bytes
        for scene in scenes
        for rows in (scene.device, scene.host)
        for num_bytes in rows.values()
    ]
    assert len(heights) == len(sizes)
    largest = max(scene.device_bytes for scene in scenes)
    assert sum(heights) == pytest.approx(220 * sum(sizes) / largest, rel=1e-2)
    # the fetch copies between both ends; the return only frees the device
    assert len(page.of_class("hatch")) == 3
    assert {"generate", "fetch teacher", "return teacher", "no copy"} <= set(page.text)


def test_a_page_of_a_plan_without_moves_has_no_timeline(run_plan):
    html = lock_page(replace(run_plan, schedule=Schedule(())))
    assert Page(html).of_class("timeline") == []


def staged(run_plan, peaks):
    """A stage a peak: a class of two ranks each, whose peak is in the student's phase."""
    (memory,) = run_plan.ledger.classes
    student = memory.phases[Phase.STUDENT]
    classes = tuple(
        ClassMemory(
            ((2 * stage, 2 * stage + 2),),
            stage,
            0,
            {
                **memory.phases,
                Phase.STUDENT: PhaseMemory(
                    {**student.rows, **({"loss tiles": 0} if stage < len(peaks) - 1 else {})},
                    peak,
                ),
            },
        )
        for stage, peak in enumerate(peaks)
    )
    return replace(
        run_plan, ledger=replace(run_plan.ledger, classes=classes, peak_bytes=max(peaks))
    )


def test_sixteen_stages_are_one_table_and_a_line_for_each_group(run_plan):
    peaks = [(3000 - 50 * stage) * MiB for stage in range(15)] + [2500 * MiB]
    lines = memory_report(staged(run_plan, peaks), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("MiB, stage 0, ranks 0-1 ")
    start = lines.index("the other ranks  stage  peak MiB         in")
    # the last stage has the loss, so its peak is made of other rows
    assert lines[start + 1 : start + 4] == [
        "ranks 2-29       1-14   2,300.0-2,950.0  student",
        "ranks 30-31      15     2,500.0          student",
        "",
    ]
    assert sum(line.startswith("student params") for line in lines) == 1


def test_the_fullest_stage_has_the_table_wherever_it_is(run_plan):
    lines = memory_report(staged(run_plan, [2500 * MiB, 3000 * MiB, 2500 * MiB, 2400 * MiB]), 80)
    assert lines.startswith("MiB, stage 1, ranks 2-3 ")
    assert "ranks 0-1, 4-5   0, 2   2,500.0   student" in lines


def test_a_page_draws_the_fullest_class_and_lists_the_others(run_plan):
    page = Page(lock_page(staged(run_plan, [2500 * MiB, 3000 * MiB, 2400 * MiB])))
    assert page.text.count("ranks 2-3, stage 1") == 1
    assert "ranks 4-5" in page.text
    assert len(page.of_class("bars")) == 1


def test_many_moves_make_the_picture_wider_and_not_its_phases_narrow(run_plan):
    (memory,) = run_plan.ledger.classes
    there_and_back = (
        Move(phase, name, *tiers, MiB, 0.1)
        for name in ("teacher head", "student grads", "student params")
        for phase, tiers in (
            (Phase.TEACHER, (Tier.HOST, Tier.DEVICE)),
            (Phase.STUDENT, (Tier.DEVICE, Tier.HOST)),
        )
    )
    busy = replace(run_plan, schedule=Schedule(tuple(there_and_back)))
    page = Page(residency_timeline(busy, memory))
    (drawn,) = page.of_class("timeline")
    # 56 to the left, six moves of 86 and five phases of 92
    assert drawn["viewbox"].split()[2] == str(56 + 6 * 86 + 5 * 92)
    last = max(float(a["x"]) + float(a["width"]) for a in page.of_class("block"))
    assert last <= 56 + 6 * 86 + 5 * 92
