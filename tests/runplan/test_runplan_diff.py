from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import pytest

from gkdplan.experts import MoeShape
from gkdplan.runplan.codec import checksum, fingerprint, seal, to_record
from gkdplan.runplan.diff import (
    Label,
    changes_objective,
    compare,
    decision_of,
    is_result,
    label_of,
    with_decision,
)
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import SCHEMA_VERSION, RunPlan
from gkdplan.runplan.records import from_json


def test_equal_run_plans_do_not_differ(run_plan):
    assert compare(run_plan, replace(run_plan, tool="gkdplan 9.9.9")) == []


def test_each_changed_decision_is_one_change(run_plan):
    other = seal(
        replace(
            run_plan,
            objective=replace(run_plan.objective, beta=0.0),
            layout=replace(run_plan.layout, student=AxisDegrees(1, False, 2)),
            batch=replace(run_plan.batch, micro_rows=2),
        )
    )
    changes = compare(run_plan, other)
    assert [(c.path, c.old, c.new, c.label, c.objective) for c in changes] == [
        ("batch.micro_rows", 4, 2, Label.SAFE, False),
        ("layout.student.data", 1, 2, Label.RESHARD, False),
        ("layout.student.sequence", True, False, Label.RESHARD, False),
        ("layout.student.tensor", 2, 1, Label.RESHARD, False),
        ("objective.beta", 0.5, 0.0, Label.RESTART, True),
    ]


def test_a_diff_turned_round_swaps_old_and_new(run_plan):
    other = replace(run_plan, training=replace(run_plan.training, num_steps=48))
    (forward,), (backward,) = compare(run_plan, other), compare(other, run_plan)
    assert (forward.old, forward.new) == (backward.new, backward.old) == (24, 48)


def test_what_follows_from_the_rest_is_one_change_a_part(run_plan):
    other = replace(run_plan, steps=run_plan.steps[:-2])
    (change,) = compare(run_plan, other)
    assert (change.path, change.label) == ("steps", Label.SAFE)
    assert len(change.old) - len(change.new) == 2


def test_an_added_data_file_is_absent_before(run_plan):
    train = run_plan.data.train
    extra = replace(train[0], path="more.jsonl")
    changes = compare(
        run_plan, replace(run_plan, data=replace(run_plan.data, train=(*train, extra)))
    )
    assert {c.path for c in changes} == {
        f"data.train[1].{key}" for key in ("path", "limit", "num_rows", "fingerprint")
    } - {"data.train[1].limit"}  # no limit before, no limit after
    assert all(c.old is None and c.label is Label.RESTART for c in changes)


def test_a_list_that_is_filled_was_absent_before(run_plan):
    train = run_plan.data.train[:1]
    without, with_rows = (
        replace(run_plan, data=replace(run_plan.data, eval=rows)) for rows in ((), train)
    )
    changes = compare(without, with_rows)
    assert "data.eval" not in {c.path for c in changes}
    assert {c.old for c in changes} == {None}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("name", Label.SAFE),
        ("training.save_interval", Label.SAFE),
        ("models.teacher.offload", Label.SAFE),
        ("ledger.peak_bytes", Label.SAFE),
        ("inputs.student.origin", Label.SAFE),
        ("models.student.padded_vocab_size", Label.RESHARD),
        ("optimizer.distributed", Label.RESHARD),
        ("layout.world_size", Label.RESHARD),
        ("layout.student.pipeline", Label.RESHARD),
        ("layout.student.virtual_pipeline", Label.RESHARD),
        ("layout.teacher.context", Label.RESHARD),
        ("layout.student.expert", Label.RESHARD),
        ("layout.student.expert_tensor", Label.RESHARD),
        ("models.student.stage_layers", Label.RESHARD),
        ("models.student.recompute.granularity", Label.SAFE),
        ("models.student.recompute.modules", Label.SAFE),
        ("models.student.shape.moe.num_experts_per_token", Label.RESTART),
        ("data.eval[0].path", Label.SAFE),
        ("data.train[0].path", Label.RESTART),
        ("inputs.student.tokenizer", Label.RESTART),
        ("models.student.shape.num_layers", Label.RESTART),
        ("data.train[0].fingerprint", Label.RESTART),
        ("training.seed", Label.RESTART),
        ("batch.global_rows", Label.RESTART),
    ],
)
def test_a_change_says_what_it_asks_of_a_run(path, label):
    assert label_of(path) is label


def numbers_in(value):
    """(container, key) of every number and flag below a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in parts:
        if isinstance(item, dict | list):
            yield from numbers_in(item)
        elif isinstance(item, int | float):
            yield value, key


def test_whatever_changes_a_lock_is_a_change(run_plan):
    record = to_record(run_plan)
    del record["schema_version"]
    places = list(numbers_in(record))
    assert len(places) > 100
    for container, key in places:
        kept = container[key]
        container[key] = not kept if isinstance(kept, bool) else kept + 1
        changed = from_json(RunPlan, {**record, "schema_version": SCHEMA_VERSION})
        container[key] = kept
        assert checksum(changed) != run_plan.checksum
        assert len(compare(run_plan, changed)) == 1


def test_what_asks_more_of_a_run_than_nothing_is_another_run(run_plan):
    """A label of reshard or restart without another fingerprint would be resumed in silence."""
    record = to_record(run_plan)
    for container, key in list(numbers_in(record)):
        kept = container[key]
        container[key] = not kept if isinstance(kept, bool) else kept + 1
        changed = from_json(RunPlan, record)
        container[key] = kept
        labels = {change.label for change in compare(run_plan, changed)}
        if labels - {Label.SAFE}:
            assert fingerprint(changed) != run_plan.fingerprint, compare(run_plan, changed)


def paths_of(hint, path=""):
    """The JSON path of every leaf below a type: of a list its first item, of a union each kind."""
    if isinstance(hint, UnionType):
        for member in get_args(hint):
            yield from paths_of(member, path)
    elif is_dataclass(hint):
        for field in fields(hint):
            yield from paths_of(
                get_type_hints(hint)[field.name], f"{path}.{field.name}".lstrip(".")
            )
    elif get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
        yield from paths_of(get_args(hint)[0], f"{path}[0]")
    else:
        yield path


def test_every_field_of_a_run_plan_has_a_rule():
    whole = ("layout.classes", "ledger.classes", "schedule", "steps")
    uncompared = {"schema_version", "tool", "fingerprint", "checksum"}
    leaves = set(paths_of(RunPlan)) - uncompared
    assert len(leaves) > 100
    for path in leaves:
        if not path.startswith(whole):
            label_of(path)
    with pytest.raises(LookupError, match=r"tomorrow\.field"):
        label_of("tomorrow.field")


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("objective.beta", True),
        ("objective.loss_temperature", True),
        ("objective.seq_kd", True),
        ("sampling.top_p", True),
        ("models.vocab_size", True),
        ("models.teacher.revision", True),
        ("data.train[0].fingerprint", True),
        ("data.truncation", True),
        ("objective.payload", False),
        ("sampling.engine", False),
        ("models.student.model", False),
        ("models.teacher.offload", False),
        ("models.teacher.stage_layers", False),
        ("data.eval[0].fingerprint", False),
        ("optimizer.lr", False),
        ("batch.global_rows", False),
        ("training.seed", False),
        ("layout.student.tensor", False),
    ],
)
def test_what_is_learnt_is_the_loss_its_teacher_and_its_responses(path, changed):
    assert changes_objective(path) is changed


def test_nothing_that_is_safe_or_a_reshard_changes_what_is_learnt():
    leaves = set(paths_of(RunPlan)) - {"schema_version", "tool", "fingerprint", "checksum"}
    compared = [p for p in leaves if not p.startswith(("schedule.", "steps["))]
    assert not [p for p in compared if changes_objective(p) and label_of(p) is not Label.RESTART]


def test_a_decision_is_taken_over_alone(run_plan):
    other = replace(
        run_plan,
        batch=replace(run_plan.batch, micro_rows=2, num_micro_batches=4),
        objective=replace(run_plan.objective, beta=0.0),
        data=replace(run_plan.data, eval=()),
    )
    assert with_decision(run_plan, other, "batch") == replace(run_plan, batch=other.batch)
    assert with_decision(run_plan, other, "data.eval") == replace(run_plan, data=other.data)
    assert with_decision(other, run_plan, "data.eval") == replace(other, data=run_plan.data)


def test_a_part_that_one_side_lacks_is_taken_over_whole(run_plan):
    student = run_plan.models.student
    experts = MoeShape(8, 2, 64)
    mixed = replace(student, shape=replace(student.shape, moe=experts))
    other = replace(run_plan, models=replace(run_plan.models, student=mixed))
    assert with_decision(run_plan, other, "models and layout") == other
    assert with_decision(other, run_plan, "models and layout") == run_plan


def test_every_decision_together_is_the_other_run_plan(run_plan):
    other = replace(
        run_plan,
        layout=replace(run_plan.layout, student=AxisDegrees(1, False, 2)),
        optimizer=replace(run_plan.optimizer, lr=1.0, distributed=False),
        training=replace(run_plan.training, save_interval=5),
    )
    changed = run_plan
    for decision in {decision_of(change.path) for change in compare(run_plan, other)}:
        changed = with_decision(changed, other, decision)
    assert changed == other


def test_results_are_no_decisions():
    assert is_result("ledger.peak_bytes")
    assert is_result("layout.classes")
    assert not is_result("layout.student.tensor")
