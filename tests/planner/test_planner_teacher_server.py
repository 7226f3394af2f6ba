"""A teacher behind a server: nothing of it on the ranks but what it sends."""

from dataclasses import replace

import pytest
from planner_facts import TINY, data_file, facts, plan

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.draft import draft_of
from gkdplan.planner.memory.explain import explain
from gkdplan.planner.reduced import reduce_plan
from gkdplan.planner.search.space import meshes, savings
from gkdplan.report.objective import card_rows
from gkdplan.report.outline import outline
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.diff import Label, compare
from gkdplan.runplan.steps import AskTeacher, Generate, TeacherForward
from gkdplan.vocab import Phase

SERVER = {"url": "http://127.0.0.1:8000", "top_k": 16}
BEHIND = {"teacher": {"model": "teacher", "server": SERVER}, "distill": {"loss_temperature": 1.0}}
OF_TEACHER = {"teacher body", "teacher head"}
BIG = replace(TINY, num_layers=7, hidden_size=960)
"""A teacher whose layers divide over no pipeline."""


def compiled(tables):
    held_out = data_file(8, path="held_out.jsonl", fingerprint="cd" * 32)
    compilation = compile_plan(plan(**tables), facts(TINY, BIG, eval=(held_out,)), "test")
    assert not [d for d in compilation.diagnostics if d.severity == "error"]
    return compilation.run_plan


def test_only_its_likeliest_ids_are_on_the_ranks():
    (memory,) = compiled(BEHIND).ledger.classes
    for in_phase in memory.phases.values():
        assert not OF_TEACHER & set(in_phase.rows)
    # 8 rows of 32 response tokens; an int32 and a float32 of each of 16 ids, a float32 of the tail
    rows = memory.phases[Phase.TEACHER].rows
    assert rows["payload (top_k)"] == 8 * 32 * (16 * 8 + 4)
    assert "activations" not in rows


def test_the_student_is_priced_as_beside_a_teacher_of_the_same_payload():
    here = {"distill": {"loss_temperature": 1.0, "payload": "top_k", "top_k": 16}}
    (behind,), (beside,) = (compiled(tables).ledger.classes for tables in (BEHIND, here))
    for row in ("student params", "student grads", "activations", "loss tiles", "payload (top_k)"):
        bytes_of = [memory.phases[Phase.STUDENT].rows[row] for memory in (behind, beside)]
        assert bytes_of[0] == bytes_of[1] > 0


def test_the_server_is_asked_in_the_place_of_a_forward():
    run_plan = compiled(BEHIND)
    assert not [step for step in run_plan.steps if isinstance(step, TeacherForward)]
    (ask,) = (step for step in run_plan.steps if isinstance(step, AskTeacher))
    assert ask == AskTeacher(("http://127.0.0.1:8000",), num_rows=8, max_tokens=256, top_k=16)
    assert [step.role for step in run_plan.steps if isinstance(step, Generate)] == ["student"]
    assert Phase.TEACHER not in run_plan.timing.phases
    assert decode(encode(run_plan)) == run_plan


def test_a_layout_that_only_the_student_can_have_is_possible():
    tables = {"cluster": {"devices_per_node": 2}, "student": {"parallel": {"pipeline": 2}}}
    tables["student"] |= {"model": "student", "dtype": "fp32"}
    text = outline(compiled(tables | BEHIND))
    assert "2 layers as 2 x 1" in text
    assert "behind http://127.0.0.1:8000" in text
    assert "for both models" not in text


def test_the_card_says_that_it_is_top_k():
    tables = BEHIND | {"distill": {"loss_temperature": 1.0, "sft_alpha": 0.5}}
    card = dict(card_rows(compiled(tables)))
    assert card["top-k"].startswith("t and s are over 16 ids, the teacher's likeliest")
    assert card["elsewhere"].startswith("no setting of TRL's GKDTrainer, ms-swift or KDFlow")
    assert card["payload"].startswith("the teacher's 16 likeliest ids, as its server gives them")
    assert card["sft"].startswith("0.5 x the label's -log s, s at temperature 1, is added")


def test_every_number_says_its_formula():
    run_plan = compiled(BEHIND)
    explained = explain(draft_of(run_plan), facts().device, run_plan.schedule.moves)
    assert all(sum(term.num_bytes for term in e.terms) == e.num_bytes for e in explained)
    (payload,) = (e for e in explained if e.row == "payload (top_k)" and e.phase is Phase.TEACHER)
    assert {"R", "N"} <= {symbol.name for symbol in payload.symbols}


def test_a_search_leaves_it_where_it_is():
    chosen = plan(**BEHIND, cluster={"devices_per_node": 4})
    found = list(meshes(chosen, facts(TINY, BIG)))
    assert len(found) > 1
    assert {mesh.teacher.parallel for mesh in found} == {None}
    assert {saving.teacher for saving in savings(chosen, 2)} == {"none"}


@pytest.mark.parametrize(("url", "is_whole"), [("https://host/v1", True), ("host:8000", False)])
def test_an_address_has_a_scheme_and_a_host(url, is_whole):
    tables = BEHIND | {"teacher": {"model": "teacher", "server": {**SERVER, "url": url}}}
    compilation = compile_plan(plan(**tables), facts(), "test")
    found = [d for d in compilation.diagnostics if d.code == "GK419"]
    assert bool(found) is not is_whole


SEVERAL = {
    "urls": {"maths": "http://one:8000", "code": "http://other:8000"},
    "column": "domain",
    "top_k": 16,
}


def served(**server):
    return compiled(BEHIND | {"teacher": {"model": "teacher", "server": server}})


def test_several_teachers_are_named_with_what_the_rows_call_them():
    run_plan = served(**SEVERAL)
    (ask,) = (step for step in run_plan.steps if isinstance(step, AskTeacher))
    assert ask.urls == ("http://one:8000", "http://other:8000")
    text = outline(run_plan, 200)
    assert (
        "behind servers, by `domain`: maths at http://one:8000, code at http://other:8000" in text
    )
    assert "http://one:8000 or http://other:8000 scores 8 responses a rank" in text
    assert decode(encode(run_plan)) == run_plan


def test_a_server_that_moved_serves_the_same_run():
    here, there = served(**SERVER), served(**{**SERVER, "url": "http://other:1", "patience_s": 5.0})
    assert here != there
    assert here.fingerprint == there.fingerprint
    assert {change.label for change in compare(here, there)} == {Label.SAFE}
    assert not any(change.objective for change in compare(here, there))
    others = served(**{**SEVERAL, "urls": {"maths": "http://one:8000", "law": "http://other:8000"}})
    assert others.fingerprint != served(**SEVERAL).fingerprint


@pytest.mark.parametrize("axes", [{"pipeline": 2}, {"tensor": 2}, {"context": 2}])
def test_a_rehearsal_has_a_small_teacher_on_the_ranks_in_its_place(axes):
    tables = {"cluster": {"devices_per_node": 2}} | BEHIND
    tables["student"] = {"model": "student", "dtype": "fp32", "parallel": axes}
    chosen = plan(**tables)
    run_plan = compiled(tables)
    reduced = reduce_plan(chosen, facts(TINY, BIG), run_plan)
    assert reduced.plan.teacher.server is None
    assert (reduced.plan.distill.payload, reduced.plan.distill.top_k) == ("top_k", 16)
    small = compile_plan(reduced.plan, facts(reduced.student, reduced.teacher), "test")
    assert not [d for d in small.diagnostics if d.severity == "error"]
    assert any(isinstance(step, TeacherForward) for step in small.run_plan.steps)


@pytest.mark.parametrize("engine", ["megatron", "vllm"])
def test_its_own_samples_are_drawn_behind_the_server(engine):
    tables = BEHIND | {"generation": {"engine": engine, "gpu_memory_utilization": 0.01}}
    tables["distill"] = {"loss_temperature": 1.0, "lmbda": 0.5, "seq_kd": 0.5}
    known = replace(TINY, head_dim=32)
    compilation = compile_plan(plan(**tables), facts(known, BIG), "test")
    run_plan = compilation.run_plan
    assert not [d for d in compilation.diagnostics if d.severity == "error"]
    assert [(step.role, step.engine) for step in run_plan.steps if isinstance(step, Generate)] == [
        ("student", engine),
        ("teacher", "vllm"),
    ]
    assert "the teacher samples 8 prompts a rank behind its server" in outline(run_plan, 200)
    assert "; the teacher behind its server" in dict(card_rows(run_plan))["sampling"]
    assert not [term for term in run_plan.timing.terms if term.name.startswith("teacher")]
    without = plan(**{**tables, "distill": {"loss_temperature": 1.0, "lmbda": 0.5}})
    alone = compile_plan(without, facts(known, BIG), "test").run_plan
    assert run_plan.ledger.classes == alone.ledger.classes
