from dataclasses import replace
from pathlib import Path

import pytest

from gkdplan.report.figures import unit_of
from gkdplan.report.memory import memory_report, memory_tables
from gkdplan.report.objective import card_rows, mixture, sources
from gkdplan.report.outline import decisions, header, outline, step_list
from gkdplan.report.residency import tiers
from gkdplan.report.words import layers_of_stages
from gkdplan.runplan.draw import source_of_step
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.models import Recompute
from gkdplan.runplan.sampling import VllmPlan
from gkdplan.runplan.schedule import Obstacle, OffloadChoice
from gkdplan.runplan.steps import Draw
from gkdplan.vocab import Engine, Phase, Source, Tier, Verdict

GOLDEN = Path(__file__).parent / "golden"
GiB = 2**30


@pytest.mark.parametrize("width", [80, 120])
def test_the_outline_is_as_it_was_reviewed(run_plan, width):
    assert outline(run_plan, width) + "\n" == (GOLDEN / f"outline_{width}.txt").read_text()


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(run_plan, width):
    long = replace(
        run_plan,
        name="a-plan-whose-name-goes-on-" * 4,
        training=replace(run_plan.training, output="runs/" + "deep/" * 40),
        layout=replace(run_plan.layout, student=AxisDegrees(1024, True, 16384)),
    )
    lines = [*outline(long, width).splitlines(), *memory_report(long, width).splitlines()]
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


def text_of(run_plan, width=400) -> dict[str, str]:
    """Label -> sentence of the outline's decisions, on one line each."""
    lines = "\n".join(decisions(run_plan, width)).splitlines()
    return {line[:12].strip(): line[12:] for line in lines} | dict(card_rows(run_plan))


def test_every_derived_value_is_shown(run_plan):
    derived = replace(
        run_plan,
        models=replace(
            run_plan.models,
            vocab_size=49150,
            student=replace(run_plan.models.student, padded_vocab_size=49408),
        ),
    )
    shown = text_of(derived)
    assert "49,150 ids" in shown["vocabulary"]
    assert "padded to 49,408, 24,704 a rank" in shown["vocabulary"]  # 49408 / tensor 2
    assert "data 1" in shown["layout"]
    assert "effective lmbda 0.4, seq_kd 0.5" in shown["source"]
    assert shown["batch"] == "8 rows = 2 micro-batches x 4 rows x data 1"
    assert "2 warmup steps" in shown["optimizer"]
    assert shown["run"].startswith("24 steps")


def test_sources_are_counted_as_the_executor_draws_them(run_plan):
    drawn = [source_of_step(Draw(42, 0.4, 0.5), step) for step in range(1, 25)]
    assert mixture(run_plan) == [
        (Source.STUDENT, 0.4, f"{drawn.count(Source.STUDENT)} steps"),
        (Source.TEACHER, 0.3, f"{drawn.count(Source.TEACHER)} steps"),
        (Source.DATASET, 0.3, f"{drawn.count(Source.DATASET)} steps"),
    ]


@pytest.mark.timeout(10)
def test_the_steps_of_a_very_long_run_are_estimated(run_plan):
    endless = replace(run_plan, training=replace(run_plan.training, num_steps=10**9))
    assert [steps for _, _, steps in mixture(endless)] == [
        "about 400,000,000 steps",
        "about 300,000,000 steps",
        "about 300,000,000 steps",
    ]


def test_a_source_that_cannot_occur_is_not_listed(run_plan):
    off_policy = replace(run_plan.objective, lmbda=0.0, seq_kd=0.0)
    assert sources(replace(run_plan, objective=off_policy)) == (
        "dataset responses 100% (24 steps); effective lmbda 0, seq_kd 0"
    )


def test_without_an_engine_nothing_is_said_to_be_sampled(run_plan):
    silent = replace(run_plan, sampling=replace(run_plan.sampling, engine=Engine.NONE))
    assert text_of(silent)["sampling"] == "none: no engine"


def test_different_layouts_of_the_models_are_both_named(run_plan):
    apart = replace(run_plan.layout, teacher=AxisDegrees(1, False, 2))
    assert text_of(replace(run_plan, layout=apart))["layout"] == (
        "2 ranks: student tensor 2 + sequence, data 1; teacher tensor 1, data 2"
    )


def test_every_axis_of_both_models_is_named(run_plan):
    student = AxisDegrees(
        tensor=2, sequence=True, data=2, pipeline=4, virtual_pipeline=2, context=2, expert=4
    )
    teacher = AxisDegrees(tensor=4, sequence=True, data=8)
    apart = replace(run_plan.layout, world_size=32, student=student, teacher=teacher)
    # expert data: 2 tensor x 2 context x 2 data ranks of a stage hold 4 experts' shares: 8 / 4 = 2
    assert text_of(replace(run_plan, layout=apart))["layout"] == (
        "32 ranks: student tensor 2 + sequence, pipeline 4 x 2 virtual, context 2, data 2; of its"
        " experts expert 4, expert tensor 1, expert data 2; teacher tensor 4 + sequence, data 8"
    )


@pytest.mark.parametrize(
    ("stage_layers", "text"),
    [
        (((9,), (9,), (9,), (9,)), "36 layers as 4 x 9"),
        (((7,), (8,), (8,), (7,)), "30 layers as 7 + 2 x 8 + 7"),
        (((4, 4), (4, 4)), "16 layers as 2 x 8, each in 2 chunks"),
    ],
)
def test_the_layers_of_stages_are_told_run_by_run(run_plan, stage_layers, text):
    staged = replace(run_plan.models.student, stage_layers=stage_layers)
    assert layers_of_stages(staged) == text
    models = replace(run_plan.models, student=staged)
    assert (
        text_of(replace(run_plan, models=models))["stages"]
        == f"student {text}; teacher 30 layers as 30"
    )


def test_plans_without_stages_or_recompute_do_not_speak_of_them(run_plan):
    assert text_of(run_plan).keys().isdisjoint({"stages", "recompute"})


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (Recompute("full", "uniform", 2), "full, uniform: 2 layers a unit"),
        (Recompute("full", "block", 3), "full, block: the first 3 layers of a chunk"),
        (Recompute("full", "uniform", 1), "full, uniform: 1 layer a unit"),
        (Recompute("selective", modules=("core_attn", "mlp")), "selective: core_attn, mlp"),
    ],
)
def test_recompute_is_told_as_chosen(run_plan, chosen, text):
    student = replace(run_plan.models.student, recompute=chosen)
    models = replace(run_plan.models, student=student)
    assert text_of(replace(run_plan, models=models))["recompute"] == text


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_verdict_stands_in_the_first_line(run_plan, verdict):
    judged = replace(run_plan, ledger=replace(run_plan.ledger, verdict=verdict))
    assert f"{verdict}: peak 2,013.5 of 4,096.0 MiB in student" in header(judged)


def table_of(run_plan) -> dict[str, list[str]]:
    """Row name -> cells of the memory table."""
    table = memory_report(run_plan, 80).split("\n\n")[0].splitlines()
    width = len("MiB a rank (ranks 0-1)")
    return {line[:width].strip(): line[width:].split() for line in table}


def test_a_cell_is_bytes_or_host_or_nothing(run_plan):
    table = table_of(run_plan)
    assert table["MiB a rank (ranks 0-1)"] == [
        "generate", "teacher", "student", "optimizer", "checkpoint",
    ]  # fmt: skip
    assert table["teacher body"] == ["405.0", "405.0", "host", "host", "host"]
    assert table["activations"] == ["-", "21.0", "333.5", "-", "-"]  # 333.5 MiB = 333 MiB + 512 KiB
    # headroom of the student phase: 4096 - (280 + 280 + 560 + 108 + 333.5 + 2 + 450) = 2082.5
    assert table["peak"][2] == "2,013.5"
    assert table["headroom"][2] == "2,082.5"


def test_a_buffer_too_small_for_a_decimal_is_not_shown_as_nothing(run_plan):
    (memory,) = run_plan.ledger.classes
    phase = memory.phases[Phase.TEACHER]
    tiny = replace(phase, rows={**phase.rows, "payload (hidden)": 100})
    phases = {**memory.phases, Phase.TEACHER: tiny}
    ledger = replace(run_plan.ledger, classes=(replace(memory, phases=phases),))
    assert table_of(replace(run_plan, ledger=ledger))["payload (hidden)"][1] == "<0.1"


def test_big_plans_are_told_in_gib(run_plan):
    assert unit_of(run_plan).name == "MiB"
    big = replace(run_plan.ledger, peak_bytes=61 * GiB, budget_bytes=80 * GiB)
    assert "peak 61.0 of 80.0 GiB" in header(replace(run_plan, ledger=big))


def test_the_first_of_the_fullest_ranks_has_the_table_and_others_a_line(run_plan):
    (memory,) = run_plan.ledger.classes
    classes = (
        ClassMemory(((0, 1),), 0, 0, memory.phases),
        ClassMemory(((1, 2), (4, 8)), 1, 0, memory.phases),
    )
    report = memory_report(replace(run_plan, ledger=replace(run_plan.ledger, classes=classes)), 80)
    assert "MiB, stage 0, rank 0 " in report
    assert "ranks 1, 4-7     1      2,013.5   student" in report


def test_an_object_stays_where_its_last_move_left_it(run_plan):
    assert tiers(run_plan)["teacher body"] == {
        Phase.GENERATE: Tier.DEVICE,
        Phase.TEACHER: Tier.DEVICE,
        Phase.STUDENT: Tier.HOST,
        Phase.OPTIMIZER: Tier.HOST,
        Phase.CHECKPOINT: Tier.HOST,
    }


def test_what_evaluation_fetches_is_on_the_device_for_it(run_plan):
    (memory,) = run_plan.ledger.classes
    saved = memory.phases[Phase.CHECKPOINT]
    fetched = replace(saved, rows={**saved.rows, "teacher body": 2**20})
    phases = {**memory.phases, Phase.CHECKPOINT: fetched}
    ledger = replace(run_plan.ledger, classes=(replace(memory, phases=phases),))
    lies = tiers(replace(run_plan, ledger=ledger))["teacher body"]
    assert lies[Phase.CHECKPOINT] is Tier.DEVICE
    assert lies[Phase.OPTIMIZER] is Tier.HOST


def test_every_step_of_the_plan_is_numbered_in_order(run_plan):
    lines = step_list(run_plan, 200).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["1", "draw"], ["2", "fetch"], ["3", "generate"], ["4", "generate"], ["5", "teacher"],
        ["6", "return"], ["7", "student"], ["8", "optimizer"], ["9", "evaluate"],
        ["10", "checkpoint"],
    ]  # fmt: skip
    # 0.7 = 0.4 + (1 - 0.4) * 0.5
    assert "student's samples if u < 0.4, teacher's samples if u < 0.7, else dataset" in lines[0]
    assert "[384, 512]" in lines[4]  # 8 rows of at most 48 response tokens, hidden size 512


CACHE = VllmPlan(2, 0.3, 1, 144, 8, 1152, 0, block_tokens=16, num_blocks=100, kv_cache_bytes=2**20)


def test_a_colocated_engine_says_what_its_cache_holds(run_plan):
    sampling = replace(run_plan.sampling, engine=Engine.VLLM, vllm=CACHE)
    text = outline(replace(run_plan, sampling=sampling), 400)
    assert "vllm on tensor 2, 30% of the device, sleep level 1, at most 8 sequences at once" in text
    # 99 usable blocks of 16 tokens; 144 tokens are 9 blocks
    line = "kv cache of 1,584 tokens holds 11 sequences of 144 tokens at once"
    assert line in memory_tables(replace(run_plan, sampling=sampling), 400).splitlines()
    assert "kv cache of" not in outline(run_plan, 400)


def test_a_server_is_named(run_plan):
    sampling = replace(run_plan.sampling, engine=Engine.VLLM, server_urls=("http://host:8000",))
    assert "vllm at http://host:8000" in outline(replace(run_plan, sampling=sampling), 400)


def test_an_offload_of_auto_shows_all_that_was_priced(run_plan):
    choices = (
        OffloadChoice((), Verdict.OVER, 90 * GiB, 0, 0.0),
        OffloadChoice(("teacher", "optimizer"), Verdict.FITS, 60 * GiB, GiB, 0.86),
    )
    schedule = replace(run_plan.schedule, choices=choices)
    assert text_of(replace(run_plan, schedule=schedule))["offload"] == (
        "auto, of nothing (over at 90.0 GiB, 0 s exposed a step); "
        "teacher and optimizer (fits at 60.0 GiB, 0.86 s exposed a step)"
    )
    assert "offload" not in text_of(run_plan)


def test_a_copy_that_is_waited_for_says_why(run_plan):
    why = {"teacher body": Obstacle.NO_ROOM}
    waiting = replace(run_plan, schedule=replace(run_plan.schedule, not_prefetched=why))
    assert text_of(waiting)["prefetch"] == (
        "teacher body is not prefetched: no phase before it has room and time for it"
    )
    assert "prefetch" not in text_of(run_plan)
