from dataclasses import replace

from gkdplan.report.changes import change_list
from gkdplan.runplan.diff import Change, Label, compare


def test_no_difference_is_said():
    assert change_list([]) == "no differences"


def test_changes_are_listed_gravest_first_with_their_meaning(run_plan):
    other = replace(
        run_plan,
        objective=replace(run_plan.objective, beta=0.0),
        batch=replace(run_plan.batch, micro_rows=2),
    )
    assert change_list(compare(run_plan, other)).splitlines() == [
        "restart  objective.beta  0.5 -> 0.0",
        "safe     batch.micro_rows  4 -> 2",
        "2 differences: restart is another run; safe changes nothing that is learned",
    ]


def test_values_read_as_people_write_them():
    changes = [
        Change("ledger.peak_bytes", 2**30, 3 * 2**29, Label.SAFE),
        Change("training.save_interval", None, 100, Label.SAFE),
        Change("layout.student.sequence", True, False, Label.RESHARD),
        Change("optimizer.betas", [0.9, 0.95], [0.9, 0.98], Label.RESTART),
        Change("steps", [{"kind": "draw"}], [], Label.SAFE),
    ]
    lines = change_list(changes).splitlines()
    assert lines[:5] == [
        "restart  optimizer.betas  [0.9, 0.95] -> [0.9, 0.98]",
        "reshard  layout.student.sequence  true -> false",
        "safe     ledger.peak_bytes  1.0 GiB -> 1.5 GiB",
        "safe     training.save_interval  none -> 100",
        "safe     steps  follows from the rest",
    ]
