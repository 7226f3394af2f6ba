from dataclasses import replace

import pytest

from gkdplan.runplan.codec import fingerprint, seal, to_record
from gkdplan.runplan.diff import Change, Label, compare, label_of
from gkdplan.runplan.model import SCHEMA_VERSION, AxisDegrees, RunPlan
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
    assert compare(run_plan, other) == [
        Change("batch.micro_rows", 4, 2, Label.SAFE),
        Change("layout.student.data", 1, 2, Label.RESHARD),
        Change("layout.student.sequence", True, False, Label.RESHARD),
        Change("layout.student.tensor", 2, 1, Label.RESHARD),
        Change("objective.beta", 0.5, 0.0, Label.RESTART),
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


def test_whatever_changes_the_fingerprint_is_a_change(run_plan):
    record = to_record(run_plan)
    del record["schema_version"]
    places = list(numbers_in(record))
    assert len(places) > 100
    for container, key in places:
        kept = container[key]
        container[key] = not kept if isinstance(kept, bool) else kept + 1
        changed = from_json(RunPlan, {**record, "schema_version": SCHEMA_VERSION})
        container[key] = kept
        assert fingerprint(changed) != run_plan.fingerprint
        assert len(compare(run_plan, changed)) == 1
