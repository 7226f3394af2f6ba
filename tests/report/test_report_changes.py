from dataclasses import replace

from gkdplan.report.changes import change_json, change_list, described, summary_json
from gkdplan.runplan.codec import seal
from gkdplan.runplan.diff import Change, Label
from gkdplan.vocab import Phase, Verdict

GiB = 2**30


def test_no_difference_is_said(run_plan):
    assert change_list(run_plan, run_plan, {}) == "no differences"


def edited(run_plan):
    """Another divergence and micro-batch, for which the ledger says another peak."""
    other = replace(
        run_plan,
        objective=replace(run_plan.objective, beta=0.0),
        batch=replace(run_plan.batch, micro_rows=2, num_micro_batches=4),
        training=replace(run_plan.training, seed=7),
        ledger=replace(
            run_plan.ledger, peak_bytes=3 * GiB, peak_phase=Phase.TEACHER, verdict=Verdict.TIGHT
        ),
    )
    return seal(other)


def test_changes_are_listed_gravest_first_with_their_effects_and_meaning(run_plan):
    differences = {"batch": -(2**29), "objective.beta": 0}
    assert change_list(run_plan, edited(run_plan), differences).splitlines() == [
        "restart  objective.beta  0.5 -> 0.0: same peak, another objective",
        "restart  training.seed  42 -> 7: same objective",
        "safe     batch.micro_rows  4 -> 2: batch peak -512.0 MiB, same objective",
        "safe     batch.num_micro_batches  2 -> 4: with batch, same objective",
        "safe     ledger.peak_bytes  2.0 GiB -> 3.0 GiB",
        "safe     ledger.peak_phase  student -> teacher",
        "safe     ledger.verdict  fits -> tight",
        "7 differences: restart is another run; safe changes nothing that is learned",
        "run        another: neither resumes the other",
        "peak       2,013.5 -> 3,072.0 of 4,096.0 MiB in student -> teacher, fits ->",
        "           tight",
        "objective  another, by objective.beta",
    ]


def test_the_summary_says_what_stays(run_plan):
    other = replace(run_plan, name="other")
    assert change_list(run_plan, other, {"name": 0}).splitlines()[-3:] == [
        "run        the same: only what is said of it differs",
        "peak       2,013.5 of 4,096.0 MiB in student, fits as before",
        "objective  the same",
    ]


def test_a_result_beside_it_does_not_hide_a_decision_s_effect(run_plan):
    layout = replace(run_plan.layout, classes=(), num_nodes=2)
    lines = change_list(
        run_plan, replace(run_plan, layout=layout), {"models and layout": 2**20}
    ).splitlines()
    assert lines[0] == "reshard  layout.num_nodes  1 -> 2: peak +1.0 MiB, same objective"
    assert lines[1] == "safe     layout.classes  follows from the rest"


def test_values_read_as_people_write_them():
    changes = [
        Change("ledger.peak_bytes", 2**30, 3 * 2**29, Label.SAFE, False, "ledger.peak_bytes"),
        Change("ledger.budget_bytes", GiB, GiB + 1, Label.SAFE, False, "ledger.budget_bytes"),
        Change("training.save_interval", None, 100, Label.SAFE, False, ""),
        Change("layout.student.sequence", True, False, Label.RESHARD, False, ""),
        Change("optimizer.betas", [0.9, 0.95], [0.9, 0.98], Label.RESTART, False, ""),
        Change("steps", [{"kind": "draw"}], [], Label.SAFE, False, ""),
    ]
    assert [described(change) for change in changes] == [
        "ledger.peak_bytes  1.0 GiB -> 1.5 GiB",
        "ledger.budget_bytes  1073741824 -> 1073741825",
        "training.save_interval  none -> 100",
        "layout.student.sequence  true -> false",
        "optimizer.betas  [0.9, 0.95] -> [0.9, 0.98]",
        "steps  follows from the rest",
    ]


def test_the_json_has_the_bytes_of_a_change_s_decision(run_plan):
    rows = change_json(run_plan, edited(run_plan), {"batch": -5, "objective.beta": 0})
    by_path = {row["path"]: row for row in rows}
    assert by_path["batch.num_micro_batches"] == {
        "path": "batch.num_micro_batches",
        "old": 2,
        "new": 4,
        "label": "safe",
        "objective": False,
        "decision": "batch",
        "peak_difference_bytes": -5,
    }
    assert by_path["objective.beta"]["peak_difference_bytes"] == 0
    assert by_path["training.seed"]["peak_difference_bytes"] is None
    summary = summary_json(run_plan, edited(run_plan))
    assert summary["same_run"] is False
    assert summary["same_objective"] is False
    assert summary["new"] == {"peak_bytes": 3 * GiB, "peak_phase": "teacher", "verdict": "tight"}
