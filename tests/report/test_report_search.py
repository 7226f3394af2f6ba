from dataclasses import replace

from gkdplan.report.search import mesh, offload, ranking_json, ranking_table, recompute
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.models import Recompute
from gkdplan.runplan.ranking import Counts, Dropped, Option, Ranking
from gkdplan.vocab import Phase, Tier, Verdict

GiB = 2**30
OPTION = Option(
    student=AxisDegrees(2, True, 16, pipeline=4, virtual_pipeline=12),
    teacher=AxisDegrees(1, False, 128),
    micro_rows=4,
    recompute=Recompute("full", "block", 18),
    teacher_offload=Tier.DEVICE,
    optimizer_offload=Tier.HOST,
    peak_bytes=60 * GiB,
    peak_phase=Phase.STUDENT,
    budget_bytes=80 * GiB,
    host_bytes_per_node=0,
    verdict=Verdict.FITS,
    step_s=1.25,
    tokens_per_s=1234567.0,
    runs=False,
    changes=(("batch.micro", 4), ("teacher.parallel", None)),
)
COUNTS = Counts(considered=10, against_rules=4, planned=3, over=1, slower=1)
OVER = replace(OPTION, peak_bytes=90 * GiB, verdict=Verdict.OVER)
RANKING = Ranking(COUNTS, (OPTION,), Dropped(OVER, 14 * GiB, 2 * GiB), None)


def test_a_layout_is_one_line():
    row = ranking_table(RANKING).splitlines()[1]
    assert row.split() == [
        "2/4x12/1/1/16*", "1/1/1/1/128", "4", "block", "18", "optimizer", "60.0", "20.0", "1.25",
        "1,234,567",
    ]  # fmt: skip


def test_wide_layouts_stay_within_eighty_columns():
    assert max(map(len, ranking_table(RANKING, 80).splitlines())) <= 80


def test_what_the_dropped_one_lacks_is_said_for_device_and_host():
    words = " ".join(ranking_table(RANKING).split())
    assert "14.0 GiB more than an allocator can use of it, in student" in words
    assert "2.0 GiB more than a node's host memory" in words


def test_counts_say_why_candidates_are_not_there():
    words = " ".join(ranking_table(RANKING).split())
    assert "10 candidates: against a rule 4, over the budget 1, slower 1" in words
    assert "of them 3 keep every rule" in words
    assert "`--planned`" in words


def test_counts_say_which_rules_were_broken():
    counts = replace(COUNTS, rules=(("GK202", 3), ("GK420", 1)))
    lines = ranking_table(replace(RANKING, counts=counts)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("10 candidates"))
    assert lines[start + 1 : start + 3] == [
        "  3  GK202 attention heads that a tensor degree does not divide",
        "  1  GK420 a global batch that does not divide",
    ]
    assert ranking_json(replace(RANKING, counts=counts))["counts"]["rules"] == {
        "GK202": 3,
        "GK420": 1,
    }


def test_what_lies_beside_the_table_has_its_unit_without_one():
    alone = replace(RANKING, options=())
    assert "GiB" in ranking_table(alone)
    assert "MiB" not in ranking_table(alone)


def test_without_layouts_there_is_no_table():
    nothing = Ranking(Counts(5, 5, 0, 0, 0), (), None, None)
    assert ranking_table(nothing).splitlines() == [
        "no layout that was tried keeps every rule and fits",
        "5 candidates: against a rule 5, over the budget 0, slower 0",
    ]


def test_names_of_meshes_recompute_and_offload():
    assert mesh(AxisDegrees(1, False, 2, expert=4, expert_tensor=2)) == "1/1/1/4x2/2"
    assert recompute(Recompute("selective", modules=("mlp",))) == "mlp"
    assert recompute(Recompute("full", "uniform", 1)) == "full"
    assert offload(replace(OPTION, teacher_offload=Tier.HOST)) == "both"
    assert offload(replace(OPTION, optimizer_offload=Tier.DEVICE)) == "none"
    streamed = replace(OPTION, teacher_offload=Tier.HOST, teacher_streamed=True)
    assert offload(streamed) == "stream+optimizer"
    resting = replace(streamed, student_grads=Tier.DROPPED)
    assert offload(resting) == "stream+optimizer+grads"
    assert offload(replace(resting, student_params=Tier.HOST)) == "stream+optimizer+student"


def test_json_has_the_changes_as_keys():
    option = ranking_json(RANKING)["options"][0]
    assert option["changes"] == {"batch.micro": 4, "teacher.parallel": None}
    assert option["headroom_bytes"] == 20 * GiB
    assert ranking_json(RANKING)["dropped"]["device_bytes"] == 14 * GiB
