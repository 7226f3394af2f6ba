"""The search: what it returns fits, keeps every rule, and is ranked by time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_facts import QWEN_3B, QWEN_7B, SMOLLM2, data_file, facts, plan

from gkdplan.diagnostics import Severity
from gkdplan.experts import MoeShape
from gkdplan.planner.checks.edits import broken_rules, edits_that_fit, fits
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.pricing import price
from gkdplan.planner.search.searching import search
from gkdplan.planner.search.space import meshes, micro_sizes, savings, with_micro
from gkdplan.planner.timing.prediction import likely_step_s
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.spec.plan import Plan
from gkdplan.vocab import Verdict

KNOWN = facts(QWEN_3B, QWEN_7B, "h100-80gb", train=(data_file(4096),))


def wanted(devices: int = 2, nodes: int = 1, **tables) -> Plan:
    base = {
        "cluster": {"device": "h100-80gb", "devices_per_node": devices, "num_nodes": nodes},
        "student": {"model": "student", "dtype": "bf16"},
        "generation": {"max_completion_length": 512},
        "data": {"train": ("rows.jsonl",), "max_length": 1536},
        "batch": {"micro": 4, "global": 16},
    }
    return plan(**{**base, **tables})


@pytest.fixture(scope="module")
def planned():
    return search(wanted(4), KNOWN, top=40, include_planned=True)


def test_the_ranking_is_by_time(planned):
    seconds = [option.step_s for option in planned.ranking.options]
    assert len(seconds) == 40
    assert seconds == sorted(seconds)


def test_every_layout_compiles_without_errors_to_the_figures_shown(planned):
    for option, found in zip(planned.ranking.options, planned.plans, strict=True):
        compiled = compile_plan(found, KNOWN, "test")
        errors = [d for d in compiled.diagnostics if d.severity is Severity.ERROR]
        assert not errors, errors
        run_plan = compiled.run_plan
        assert run_plan is not None
        assert option.peak_bytes == run_plan.ledger.peak_bytes
        assert option.step_s == pytest.approx(run_plan.timing.step.likely)
        assert (option.student, option.teacher) == (
            run_plan.layout.student,
            run_plan.layout.teacher,
        )


def test_with_an_engine_that_sleeps_the_figures_are_those_of_the_plan_too():
    generation = {
        "engine": "vllm",
        "tensor": 1,
        "sleep_level": 1,
        "gpu_memory_utilization": 0.4,
        "max_completion_length": 512,
    }
    original = wanted(2, generation=generation)
    found = search(original, KNOWN, include_planned=True)
    assert found.ranking.options
    for option, layout in zip(found.ranking.options, found.plans, strict=True):
        compiled = compile_plan(layout, KNOWN, "test")
        assert not [d for d in compiled.diagnostics if d.severity is Severity.ERROR]
        assert compiled.run_plan is not None
        assert option.step_s == pytest.approx(compiled.run_plan.timing.step.likely)


def test_seconds_of_the_ranking_are_those_of_each_layout_alone(planned):
    original = wanted(4)
    again = search(original, KNOWN, top=40, include_planned=True)
    alone = [
        likely_step_s(found.draft, found.moves, KNOWN.device)
        for found in (price(layout, KNOWN) for layout in again.plans)
    ]
    assert alone == pytest.approx(sorted(alone))


def test_no_axis_is_longer_than_what_it_divides():
    for mesh in meshes(wanted(8, nodes=64), KNOWN):
        parallel = mesh.student.parallel
        assert parallel.tensor <= QWEN_3B.num_attention_heads
        assert parallel.pipeline <= QWEN_3B.num_layers
        assert parallel.context <= (1536 + 512) // 256


def test_the_plans_own_stages_are_a_candidate():
    parallel = {"tensor": 1, "pipeline": 2, "stage_layers": (20, 16)}
    own = {"pipeline": 2, "stage_layers": (15, 13)}
    original = wanted(
        2,
        student={"model": "student", "dtype": "bf16", "parallel": parallel},
        teacher={"model": "teacher", "parallel": own},
    )
    space = meshes(original, KNOWN)
    assert any(mesh.student.parallel == original.student.parallel for mesh in space)


def test_its_changes_are_what_makes_the_plan_that_layout(planned):
    original = wanted(4)
    for option, found in zip(planned.ranking.options, planned.plans, strict=True):
        for path, value in option.changes:
            assert _at(found, path) == value
            assert _at(original, path) != value


def _at(node, path: str):
    for name in path.split("."):
        node = None if node is None else getattr(node, name)
    return node


def test_candidates_are_counted_once(planned):
    counts = planned.ranking.counts
    dropped = counts.against_rules + counts.planned + counts.over + counts.slower
    assert dropped + len(planned.ranking.options) == counts.considered
    assert sum(count for _, count in counts.rules) == counts.against_rules
    assert counts.slower > 0


def test_no_two_layouts_are_the_same(planned):
    layouts = [
        (o.student, o.teacher, o.micro_rows, o.recompute, o.teacher_offload, o.optimizer_offload, p)
        for o, p in zip(planned.ranking.options, planned.plans, strict=True)
    ]
    assert all(layout not in layouts[:index] for index, layout in enumerate(layouts))


def test_only_what_runs_is_ranked_unless_asked_for():
    """With torch's kernels no GPU runs a context axis."""
    cluster = {"device": "h100-80gb", "devices_per_node": 4, "kernels": "torch"}
    ranking = search(wanted(cluster=cluster), KNOWN).ranking
    assert ranking.options
    assert all(option.runs for option in ranking.options)
    assert all(option.student.context == 1 for option in ranking.options)
    assert any(option.student != option.teacher for option in ranking.options)
    assert ranking.counts.planned > len(ranking.options)


def test_several_nodes_are_no_reason_to_leave_a_layout_out():
    ranking = search(wanted(2, nodes=2), KNOWN).ranking
    assert ranking.options
    assert all(option.runs for option in ranking.options)


def test_the_fastest_that_does_not_fit_says_what_it_lacks():
    ranking = search(wanted(2), KNOWN, include_planned=True).ranking
    dropped = ranking.dropped
    assert dropped is not None
    assert dropped.option.verdict is Verdict.OVER
    budget = dropped.option.budget_bytes
    assert dropped.device_bytes >= dropped.option.peak_bytes - budget > 0


def test_nothing_fits_where_nothing_can_and_the_second_search_is_heard_too():
    tiny = {"device": "h100-80gb", "devices_per_node": 1, "memory_limit": "4 GiB"}
    heard: list[int] = []
    found = search(
        wanted(1, cluster=tiny),
        KNOWN,
        include_planned=True,
        tell=lambda done, total: heard.append(done),
    )
    assert heard.count(0) == 2
    assert found.plans == found.ranking.options == ()
    assert found.ranking.counts.slower == 0
    assert found.ranking.dropped is not None


def test_nothing_faster_that_fits_is_passed_over():
    """Against pricing every candidate by itself."""
    original = wanted(2, batch={"micro": 1, "global": 2})
    fitting = []
    for mesh in meshes(original, KNOWN):
        for saving in savings(mesh, QWEN_3B.num_layers):
            for size in micro_sizes(mesh):
                candidate = with_micro(saving.applied_to(mesh), size)
                if not broken_rules(candidate, KNOWN):
                    found = price(candidate, KNOWN)
                    if fits(found.ledger, KNOWN.device):
                        fitting.append(likely_step_s(found.draft, found.moves, KNOWN.device))
    ranking = search(original, KNOWN, top=len(fitting) + 1, include_planned=True).ranking
    assert [o.step_s for o in ranking.options] == pytest.approx(sorted(fitting))


@given(st.data())
@settings(max_examples=30)
def test_memory_does_not_fall_as_micro_batches_grow(data):
    """Why a series is given up where one of its micro-batches does not fit."""
    possible = [mesh for mesh in ALL_MESHES if len(micro_sizes(mesh)) > 1]
    mesh = data.draw(st.sampled_from(possible))
    offload = data.draw(st.sampled_from(["none", "cpu"]))
    teacher = mesh.teacher.model_copy(update={"offload": offload})
    sized = [
        with_micro(mesh.model_copy(update={"teacher": teacher}), size) for size in micro_sizes(mesh)
    ]
    peaks = [price(p, KNOWN).ledger.peak_bytes for p in sized if not broken_rules(p, KNOWN)]
    assert peaks == sorted(peaks)


ALL_MESHES = list(meshes(wanted(8, batch={"micro": 1, "global": 64}), KNOWN))


def test_the_space_has_every_axis_and_each_mesh_once():
    moe = replace(SMOLLM2, num_attention_heads=8, num_kv_heads=4, moe=MoeShape(8, 2, 512))
    known = facts(moe, moe, "h100-80gb")
    space = list(meshes(wanted(8), known))
    axes = [mesh.student.parallel for mesh in space]
    for axis in ("tensor", "pipeline", "context", "expert", "expert_tensor", "virtual_pipeline"):
        assert max(getattr(parallel, axis) for parallel in axes) > 1, axis
    assert any(mesh.teacher.parallel for mesh in space)
    keys = [(m.student.parallel, m.teacher.parallel) for m in space]
    assert len(keys) == len({repr(key) for key in keys})


def test_a_plans_own_recompute_that_breaks_a_rule_hinders_no_layout():
    student = {"model": "student", "dtype": "bf16", "recompute": {"granularity": "full"}}
    broken = wanted(2, student=student)
    assert broken_rules(broken, KNOWN)
    assert search(broken, KNOWN).ranking.options


def test_models_with_experts_are_not_offered_what_they_cannot_recompute():
    moe = replace(SMOLLM2, num_attention_heads=8, num_kv_heads=4, moe=MoeShape(8, 2, 512))
    known = replace(facts(moe, moe, "h100-80gb"), train=(data_file(4096),))
    found = search(wanted(4), known, top=60, include_planned=True)
    assert any(layout.student.recompute.granularity != "none" for layout in found.plans)
    for layout in found.plans:
        findings = compile_plan(layout, known, "test").diagnostics
        assert not [d for d in findings if d.severity is Severity.ERROR]


def test_a_dropped_candidate_counts_under_a_rule_that_it_breaks():
    """Three heads go into no tensor degree but 1 and 3, and a plan of two ranks has no 3."""
    odd = replace(SMOLLM2, num_attention_heads=3, num_kv_heads=3)
    known = replace(facts(odd, odd, "h100-80gb"), train=(data_file(4096),))
    rules = dict(search(wanted(2, batch={"micro": 1, "global": 2}), known).ranking.counts.rules)
    meshes_of_two = [m for m in meshes(wanted(2), known) if m.student.parallel.tensor == 2]
    assert meshes_of_two
    assert rules["GK202"] >= len(meshes_of_two)


def test_the_plans_own_recompute_is_a_candidate():
    own = {"granularity": "full", "method": "block", "num_layers": 5}
    student = {"model": "student", "dtype": "bf16", "recompute": own}
    teacher = {"model": "teacher", "offload": "cpu"}
    original = wanted(1, student=student, teacher=teacher, batch={"micro": 1, "global": 1})
    found = search(original, KNOWN, top=1000, include_planned=True)
    layers = {option.recompute.num_layers for option in found.ranking.options}
    assert {5, 9, 18, 27} <= layers
    assert found.ranking.own is not None
    seconds = [o.step_s for o in found.ranking.options if o.changes == ()]
    assert seconds == [found.ranking.own.step_s]


def test_recompute_rises_from_nothing_to_every_layer_and_divides_it():
    (mesh, *_) = meshes(wanted(2), KNOWN)
    offered = {saving.recompute for saving in savings(mesh, QWEN_3B.num_layers)}
    full = [(r.method, r.num_layers) for r in offered if r.granularity == "full"]
    assert sorted(full) == [
        ("block", 9), ("block", 18), ("block", 27), ("uniform", 1), ("uniform", 2),
    ]  # fmt: skip


def test_a_teacher_has_context_degrees_of_its_own():
    axes = {
        (mesh.student.parallel.context, mesh.teacher.parallel.context)
        for mesh in meshes(wanted(4), KNOWN)
        if mesh.teacher.parallel
    }
    assert {(1, 1), (1, 2), (1, 4), (2, 1), (2, 4), (4, 1), (4, 2)} <= axes


def test_a_kept_sequence_setting_goes_with_the_tensor_axis():
    parallel = {"tensor": 2, "sequence": False}
    student = {"model": "student", "dtype": "bf16", "parallel": parallel}
    for mesh in meshes(wanted(4, student=student), KNOWN):
        expected = False if mesh.student.parallel.tensor > 1 else None
        assert mesh.student.parallel.sequence is expected


def test_the_plans_own_layout_is_told():
    own = search(wanted(2), KNOWN).ranking.own
    assert own is not None
    assert own.student == AxisDegrees(1, False, 2)
    assert own.changes == ()
    broken = wanted(2, batch={"micro": 3, "global": 16})
    assert search(broken, KNOWN).ranking.own is None


def test_an_edit_says_the_bytes_that_it_saves():
    over = wanted(2, batch={"micro": 8, "global": 16})
    before = price(over, KNOWN).ledger
    assert not fits(before, KNOWN.device)
    edits = {edit.description: edit for edit in edits_that_fit(over, KNOWN)}
    smaller = edits["set `batch.micro` to 2"]
    after = price(with_micro(over, 2), KNOWN).ledger
    assert (smaller.peak_bytes, smaller.saved_bytes) == (
        after.peak_bytes,
        before.peak_bytes - after.peak_bytes,
    )
    assert smaller.runs
    assert "GiB, the peak is" in smaller.sentence


def test_an_edit_says_what_it_saves_and_whether_it_runs():
    cluster = {"device": "h100-80gb", "devices_per_node": 2, "memory_limit": "56 GiB"}
    over = wanted(cluster=cluster, batch={"micro": 1, "global": 16})
    edits = {edit.description: edit for edit in edits_that_fit(over, KNOWN)}
    offload = edits['set `optimizer.offload` to "cpu"']
    assert offload.runs
    assert offload.saved_bytes > 0
    assert "(planned, but not yet run)" not in offload.sentence
    assert "(planned, but not yet run)" in replace(offload, runs=False).sentence
    assert edits["set `student.parallel.tensor` to 2"].runs


def test_whoever_waits_hears_of_every_mesh():
    heard = []
    search(wanted(2), KNOWN, top=1, tell=lambda done, total: heard.append((done, total)))
    num_meshes = len(list(meshes(wanted(2), KNOWN)))
    assert heard == [(done, num_meshes) for done in range(num_meshes)]
