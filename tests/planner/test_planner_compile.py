"""From plan and facts to a run plan: what is decided, and what holds for every plan."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_facts import QWEN_3B, QWEN_7B, TINY, data_file, facts, model_facts, plan, tokenizer

from gkdplan.planner.compiler import compile_plan
from gkdplan.runplan.codec import decode, encode
from gkdplan.runplan.draw import share_of_sources
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Draw, Generate, Move, TeacherForward
from gkdplan.vocab import Phase, Source, Tier, Verdict


def compiled(tables: dict | None = None, **changes: object) -> RunPlan:
    compilation = compile_plan(plan(**(tables or {})), facts(**changes), "gkdplan test")
    assert compilation.run_plan is not None, compilation.diagnostics
    return compilation.run_plan


def kinds(run_plan: RunPlan) -> list[str]:
    return [type(step).__name__ for step in run_plan.steps]


def test_steps_come_in_the_order_of_the_outline():
    tables = {"teacher": {"offload": "cpu"}, "distill": {"lmbda": 0.3, "seq_kd": 0.5}}
    run_plan = compiled(tables, eval=(data_file(8),))
    assert kinds(run_plan) == [
        "Draw",
        "Move",
        "Generate",
        "Generate",
        "TeacherForward",
        "Move",
        "StudentStep",
        "OptimizerStep",
        "Evaluate",
        "Checkpoint",
    ]
    assert [s.source for s in run_plan.steps if isinstance(s, Generate)] == [
        Source.STUDENT,
        Source.TEACHER,
    ]


@pytest.mark.parametrize(
    ("lmbda", "seq_kd", "engine", "sources"),
    [
        (1.0, True, "megatron", [Source.STUDENT]),
        (0.0, True, "megatron", [Source.TEACHER]),
        (0.5, False, "megatron", [Source.STUDENT]),
        (0.0, False, "megatron", []),
        (1.0, True, "none", []),
    ],
)
def test_only_sources_with_a_chance_are_sampled(lmbda, seq_kd, engine, sources):
    tables = {"distill": {"lmbda": lmbda, "seq_kd": seq_kd}, "generation": {"engine": engine}}
    run_plan = compiled(tables)
    assert [s.source for s in run_plan.steps if isinstance(s, Generate)] == sources


def test_without_an_engine_every_step_draws_the_dataset():
    tables = {"distill": {"lmbda": 1.0, "seq_kd": True}, "generation": {"engine": "none"}}
    (draw,) = (step for step in compiled(tables).steps if isinstance(step, Draw))
    assert share_of_sources(draw)[Source.DATASET] == 1.0


def test_the_teacher_forward_keeps_the_hidden_states_of_all_response_tokens():
    (forward,) = (step for step in compiled().steps if isinstance(step, TeacherForward))
    # One rank's 8 rows of at most 32 response tokens; 96 hidden elements.
    assert (forward.num_micro_batches, forward.max_tokens, forward.width) == (4, 256, 96)


@pytest.mark.parametrize(
    ("hidden_size", "payload"), [(96, "hidden"), (512, "hidden"), (768, "logits")]
)
def test_an_open_payload_is_what_has_fewer_bytes_a_token(hidden_size, payload):
    # The 500 ids of either model are padded to 512.
    teacher = replace(TINY, hidden_size=hidden_size)
    assert compiled(teacher=teacher).objective.payload == payload
    asked = {"distill": {"payload": "top_k", "top_k": 8}}
    assert compiled(asked, teacher=teacher).objective.payload == "top_k"


@pytest.mark.parametrize(("lmbda", "sft_alpha"), [(0.9, 0.5), (1.0, 0.0)])
def test_cross_entropy_is_added_where_some_step_learns_from_the_dataset(lmbda, sft_alpha):
    tables = {"distill": {"lmbda": lmbda, "sft_alpha": 0.5}}
    assert compiled(tables).objective.sft_alpha == sft_alpha


def test_both_models_are_padded_to_one_vocabulary():
    tables = {
        "cluster": {"devices_per_node": 2, "device": "h100-80gb"},
        "student": {"parallel": {"tensor": 2}},
    }
    models = compiled(tables, student=QWEN_3B, teacher=QWEN_7B, device="h100-80gb").models
    # 152,064 is a multiple of 128 x 2; the tokenizer knows 490 ids.
    assert models.student.padded_vocab_size == models.teacher.padded_vocab_size == 152_064
    assert models.vocab_size == 490


def test_without_tokenizers_the_smaller_embedding_is_the_vocabulary():
    untold = {
        "student": model_facts("student", TINY, None),
        "teacher": model_facts("teacher", replace(TINY, vocab_size=512), None),
    }
    compilation = compile_plan(plan(), replace(facts(), **untold), "test")
    assert compilation.run_plan.models.vocab_size == 500


def test_the_teachers_tokenizer_serves_where_the_students_was_not_seen():
    facts_ = replace(facts(), student=model_facts("student", TINY, None))
    assert compile_plan(plan(), facts_, "test").run_plan.models.vocab_size == tokenizer().size


def test_epochs_count_whole_global_batches():
    # 64 rows make 6 batches of 10; 3 epochs; 5% of 18 steps round up to one.
    tables = {
        "batch": {"micro": 1, "global": 10},
        "run": {"epochs": 3},
        "optimizer": {"warmup_fraction": 0.05},
    }
    run_plan = compiled(tables)
    assert run_plan.training.num_steps == 18
    assert run_plan.optimizer.warmup_steps == 1


def test_steps_override_the_number_of_rows():
    assert compiled({"run": {"steps": 100}}).training.num_steps == 100


def test_kept_layers_make_a_shallower_student():
    tables = {"student": {"init": "layers", "keep": {"layers": (1,)}}}
    student = compiled(tables).models.student
    assert (student.shape.num_layers, student.keep_layers) == (1, (1,))
    assert student.num_parameters == TINY.with_layers(1).num_parameters


def test_defaults_are_decided():
    tables = {
        "cluster": {"devices_per_node": 2},
        "student": {"parallel": {"tensor": 2}},
        "distill": {"temperature": 0.7, "sampling_temperature": 0.0},
    }
    run_plan = compiled(tables)
    assert run_plan.layout.student.sequence
    assert run_plan.layout.teacher == run_plan.layout.student
    assert run_plan.models.teacher.dtype is run_plan.models.student.dtype
    assert run_plan.training.output == "runs/test"
    assert (run_plan.sampling.temperature, run_plan.objective.loss_temperature) == (0.0, 0.7)
    # 2 rows of 32 response tokens are fewer than a CPU's chunk of 256.
    assert run_plan.objective.chunk_tokens == 64


def test_sequence_parallelism_pads_rows_to_the_tensor_degree():
    from gkdplan.planner.drafting import draft

    tables = {
        "cluster": {"devices_per_node": 2},
        "student": {"parallel": {"tensor": 2}},
        "data": {"max_length": 33},
    }
    decided = draft(plan(**tables), facts())
    assert decided.sequence_tokens(decided.layout.student) == 66


def test_an_impossible_layout_gives_no_run_plan_and_never_raises():
    tables = {"cluster": {"devices_per_node": 5}, "student": {"parallel": {"tensor": 4}}}
    compilation = compile_plan(plan(**tables), facts(), "test")
    assert compilation.run_plan is None
    assert {d.code for d in compilation.diagnostics} >= {"GK201", "GK202"}


def test_a_plan_that_does_not_fit_still_has_its_ledger():
    compilation = compile_plan(plan(cluster={"memory_limit": "1 MiB"}), facts(), "test")
    assert compilation.run_plan.ledger.verdict is Verdict.OVER
    assert [d.code for d in compilation.diagnostics] == ["GK301"]


def test_the_run_plan_is_sealed_and_reads_back():
    run_plan = compiled({"teacher": {"offload": "cpu"}})
    assert decode(encode(run_plan)) == run_plan


PLANS = st.fixed_dictionaries(
    {
        "cluster": st.fixed_dictionaries(
            {
                "num_nodes": st.integers(1, 3),
                "devices_per_node": st.integers(1, 8),
                "memory_limit": st.sampled_from([None, "1 MiB", "64 MiB"]),
            }
        ),
        "student": st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["fp32", "bf16"]),
                "parallel": st.fixed_dictionaries(
                    {"tensor": st.integers(1, 6), "sequence": st.sampled_from([None, True, False])}
                ),
            }
        ),
        "teacher": st.fixed_dictionaries({"offload": st.sampled_from(["none", "cpu"])}),
        "distill": st.fixed_dictionaries(
            {
                "beta": st.floats(0, 1),
                "lmbda": st.floats(0, 1),
                "seq_kd": st.one_of(st.booleans(), st.floats(0, 1)),
                "payload": st.sampled_from(["auto", "hidden", "logits"]),
            }
        ),
        "generation": st.fixed_dictionaries(
            {
                "engine": st.sampled_from(["megatron", "none"]),
                "max_completion_length": st.integers(1, 400),
            }
        ),
        "data": st.fixed_dictionaries({"max_length": st.integers(1, 400)}),
        "batch": st.fixed_dictionaries({"micro": st.integers(1, 9), "global": st.integers(1, 99)}),
        "optimizer": st.fixed_dictionaries({"distributed": st.booleans()}),
    }
)


@settings(max_examples=150, deadline=None)
@given(PLANS)
def test_every_plan_compiles_alike_twice_and_keeps_its_books(tables):
    first = compile_plan(plan(**tables), facts(), "test")
    assert compile_plan(plan(**tables), facts(), "test") == first
    if first.run_plan is None:
        assert any(d.severity == "error" for d in first.diagnostics)
        return
    check_layout(first.run_plan)
    check_bytes(first.run_plan)


def check_layout(run_plan: RunPlan) -> None:
    """The axes multiply to the ranks, and every rank is in one class."""
    layout = run_plan.layout
    for degrees in (layout.student, layout.teacher):
        assert degrees.tensor * degrees.data == layout.world_size
    covered = [r for c in layout.classes for first, end in c.ranks for r in range(first, end)]
    assert sorted(covered) == list(range(layout.world_size))


def check_bytes(run_plan: RunPlan) -> None:
    """Rows are positive and sum to their phase; what moves out moves back."""
    memory = run_plan.ledger.classes[0].phases
    for phase in memory.values():
        assert all(num_bytes > 0 for num_bytes in phase.rows.values())
        assert sum(phase.rows.values()) == phase.peak_bytes
    peaks = {phase: m.peak_bytes for phase, m in memory.items()}
    assert run_plan.ledger.peak_bytes == max(peaks.values()) == peaks[run_plan.ledger.peak_phase]
    moves = [step for step in run_plan.steps if isinstance(step, Move)]
    assert tuple(moves) == run_plan.schedule.moves
    flow = {Tier.DEVICE: 0, Tier.HOST: 0}
    for move in moves:
        flow[move.from_tier] -= move.num_bytes
        flow[move.to_tier] += move.num_bytes
    assert flow == {Tier.DEVICE: 0, Tier.HOST: 0}
    if moves:
        assert "teacher body" in memory[Phase.TEACHER].rows
        assert "teacher body" not in memory[Phase.STUDENT].rows


HUGE = 10**9
"""The largest count that a plan may hold."""


@pytest.mark.parametrize(
    "tables",
    [
        {"cluster": {"devices_per_node": HUGE, "num_nodes": HUGE}},
        {"cluster": {"devices_per_node": HUGE}, "batch": {"micro": 1, "global": HUGE}},
        {"batch": {"micro": HUGE, "global": HUGE}},
        {"batch": {"micro": HUGE - 1, "global": HUGE}},
        {"data": {"max_length": HUGE}, "generation": {"max_completion_length": HUGE}},
        {"student": {"parallel": {"tensor": HUGE}}},
        {"run": {"steps": HUGE, "seed": HUGE}},
    ],
)
@pytest.mark.timeout(5)
def test_absurd_numbers_cost_no_time(tables):
    compile_plan(plan(**tables), facts(), "test")
