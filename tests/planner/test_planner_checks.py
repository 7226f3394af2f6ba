"""Each rule: what breaks it, where it points, and what its help says."""

from collections import Counter
from dataclasses import replace

import pytest
from planner_facts import TINY, data_file, facts, model_facts, plan, tokenizer

from gkdplan.attention import AttentionShape
from gkdplan.codes import CODES
from gkdplan.diagnostics import Diagnostic, Severity
from gkdplan.planner.checks.declaration import RULES, check_declaration
from gkdplan.planner.compiler import compile_plan


def ranks(num_ranks: int, tensor: int, **parallel: object) -> dict[str, dict]:
    return {
        "cluster": {"devices_per_node": num_ranks},
        "student": {"parallel": {"tensor": tensor, **parallel}},
    }


# TINY has 6 attention heads, 2 kv heads and an ffn of 160.
LAYOUTS = {
    "GK201": (ranks(4, 3), "student.parallel.tensor", "4 ranks cannot be divided", "to 1 or 2"),
    "GK202": (ranks(4, 4), "student.parallel.tensor", "6 attention heads", "to 1 or 2"),
    "GK203": (ranks(6, 3), "student.parallel.tensor", "2 kv heads", "to 1 or 2"),
    "GK204": (ranks(6, 6), "student.parallel.tensor", "160 ffn columns", "to 1 or 2"),
    "GK205": (
        ranks(1, 1, sequence=True),
        "student.parallel.sequence",
        "without a tensor axis",
        "remove `student.parallel.sequence`",
    ),
    "GK206": (
        {"student": {"init": "layers", "keep": {"layers": (0, 2)}}},
        "student.keep.layers",
        "names layer 2 of a model with 2 layers",
        "layers of 0 to 1",
    ),
    "GK207": (
        {
            "cluster": {"devices_per_node": 1, "num_nodes": 2},
            "student": {"parallel": {"tensor": 2}},
        },
        "student.parallel.tensor",
        "tensor groups of 2 ranks span several nodes",
        "to 1",
    ),
    "GK410": ({"distill": {"beta": 0.995}}, "distill.beta", "near 1 but not at it", "to 1 for"),
    "GK411": (
        {"distill": {"lmbda": 0.25}, "generation": {"engine": "none"}},
        "distill.lmbda",
        "no step learns from the student's samples",
        '"megatron"',
    ),
    "GK420": (
        {"cluster": {"devices_per_node": 3}, "batch": {"micro": 4, "global": 18}},
        "batch.global",
        "18 rows is not divisible by 12",
        "to 12 or 24",
    ),
    "GK421": ({"batch": {"global": 66}}, "batch.global", "64 rows do not fill", "to 64, or add"),
    "GK422": ({"batch": {"global": 10}}, "batch.global", "4 of 64 rows are left out", ""),
    "GK423": ({"optimizer": {"warmup_fraction": 1.0}}, "optimizer.warmup_fraction", "all 8", ""),
    "GK424": (
        {"data": {"max_length": 300}},
        "data.max_length",
        "332 tokens exceed the 256 positions of student",
        "`data.max_length` to at most 224",
    ),
    "GK425": ({"student": {"dtype": "bf16"}}, "student.dtype", "slower than fp32", '"fp32"'),
    "GK430": (
        {"generation": {"gpu_memory_utilization": 0.4}},
        "generation.gpu_memory_utilization",
        "has no effect",
        "remove it",
    ),
}


@pytest.mark.parametrize("code", LAYOUTS)
def test_a_rule_points_at_its_key_and_computes_help(code):
    tables, path, message, help = LAYOUTS[code]
    found = first(code, check_declaration(plan(**tables), facts()))
    assert found.path == path
    assert message in found.message
    assert help in " ".join(found.help)


def first(code: str, findings: tuple[Diagnostic, ...]) -> Diagnostic:
    """The first finding of a code: both models may break one rule at one key."""
    found = [finding for finding in findings if finding.code == code]
    assert found, f"no {code} among {[f.code for f in findings]}"
    return found[0]


def test_a_sound_plan_has_no_finding():
    assert check_declaration(plan(), facts()) == ()


def test_the_origin_of_a_number_is_named():
    found = first("GK203", check_declaration(plan(**ranks(6, 3)), facts()))
    assert found.notes[0] == "num_key_value_heads = 2, from student/config.json"


def test_all_findings_come_at_once():
    tables = {**ranks(4, 4), "distill": {"beta": 0.001}, "batch": {"global": 65}}
    codes = {finding.code for finding in check_declaration(plan(**tables), facts())}
    assert codes >= {"GK202", "GK410", "GK420", "GK421"}


def test_a_number_that_both_models_have_is_one_finding():
    findings = check_declaration(plan(**ranks(6, 3)), facts())
    (found,) = (finding for finding in findings if finding.code == "GK203")
    assert found.message.startswith("`student` and `teacher` have 2 kv heads")
    other = replace(facts(), teacher=model_facts("teacher", replace(TINY, num_kv_heads=1), None))
    (found,) = (f for f in check_declaration(plan(**ranks(6, 3)), other) if f.code == "GK203")
    assert found.message.startswith("`student` has 2 kv heads")


def test_more_ranks_than_kv_heads_may_share_them():
    shape = replace(TINY, num_attention_heads=8, num_kv_heads=2)
    shared = facts(student=shape, teacher=shape)
    codes = {finding.code for finding in check_declaration(plan(**ranks(4, 4)), shared)}
    assert "GK203" not in codes


def test_a_gpu_cannot_be_given_more_memory_than_it_has():
    tables = {"cluster": {"device": "a100-40gb", "memory_limit": "41 GiB"}}
    found = first("GK304", check_declaration(plan(**tables), facts(device="a100-40gb")))
    assert "above the memory of a100-40gb" in found.message


def test_the_smallest_change_of_a_batch_is_offered():
    tables = {"cluster": {"devices_per_node": 2}, "batch": {"micro": 5, "global": 24}}
    found = first("GK420", check_declaration(plan(**tables), facts()))
    assert found.help == ("set `batch.global` to 20 or 30", "set `batch.micro` to 4")


def with_teacher_tokenizer(**changes: object):
    return replace(facts(), teacher=model_facts("teacher", TINY, tokenizer(**changes)))


def test_other_token_ids_are_an_error_that_names_the_first():
    swapped = {f"t{i}": i for i in range(488)} | {"t488": 489, "t489": 488}
    found = first("GK401", check_declaration(plan(), with_teacher_tokenizer(tokens=swapped)))
    assert found.severity is Severity.ERROR
    assert "2 tokens different ids" in found.message
    assert found.notes[0] == "'t488': 488 in the student, 489 in the teacher"


def test_an_unknown_token_is_named_as_such():
    fewer = {f"t{i}": i for i in range(489)}
    found = first("GK401", check_declaration(plan(), with_teacher_tokenizer(tokens=fewer)))
    assert found.notes == ("'t489': 489 in the student, unknown in the teacher",)


@pytest.mark.parametrize(
    ("code", "changes"),
    [("GK402", {"eos_token": "t1"}), ("GK403", {"chat_template": "{{ other }}"})],
)
def test_another_end_or_template_is_a_warning(code, changes):
    found = first(code, check_declaration(plan(), with_teacher_tokenizer(**changes)))
    assert found.severity is Severity.WARNING
    assert "the student's is used" in found.label


def test_a_teacher_without_a_template_raises_no_warning():
    findings = check_declaration(plan(), with_teacher_tokenizer(chat_template=None))
    assert findings == ()


def test_messages_need_a_chat_template():
    student = model_facts("student", TINY, tokenizer(chat_template=None))
    bare = replace(facts(), student=student)
    assert first("GK404", check_declaration(plan(), bare)).path == "data.train[0]"
    prompts = replace(bare, train=(data_file(num_rows_with_messages=0),))
    assert not [f for f in check_declaration(plan(), prompts) if f.code == "GK404"]


def test_a_vocabulary_without_tokenizer_is_noted():
    models = {role: model_facts(role, TINY, None) for role in ("student", "teacher")}
    found = first("GK405", check_declaration(plan(), replace(facts(), **models)))
    assert "500 ids" in found.message


PROMPTS = (data_file(num_rows_with_response=60),)


@pytest.mark.parametrize(
    ("lmbda", "seq_kd", "engine", "is_error"),
    [
        (0.5, False, "megatron", True),
        (0.5, 0.5, "megatron", True),
        (1.0, False, "megatron", False),
        (0.5, True, "megatron", False),
        (1.0, True, "none", True),
    ],
)
def test_dataset_steps_need_responses(lmbda, seq_kd, engine, is_error):
    tables = {
        "distill": {"lmbda": lmbda, "seq_kd": seq_kd},
        "generation": {"engine": engine},
    }
    findings = check_declaration(plan(**tables), facts(train=PROMPTS))
    found = [finding for finding in findings if finding.code == "GK412"]
    assert bool(found) is is_error
    if is_error:
        assert "4 of 64 rows" in found[0].message
        assert found[0].path == "data.train[0]"


def test_eval_rows_need_responses():
    found = first("GK413", check_declaration(plan(), facts(eval=PROMPTS)))
    assert found.path == "data.eval[0]"


@pytest.mark.parametrize(
    ("path", "tables"),
    [
        ("generation.tensor", {"generation": {"tensor": 2}}),
    ],
)
def test_what_is_not_available_is_refused_by_name(path, tables):
    compilation = compile_plan(plan(**tables), facts(), "test")
    found = [finding for finding in compilation.diagnostics if finding.code == "GK590"]
    assert [finding.path for finding in found] == [path]
    assert "not yet available in gkdplan 0.1.0" in found[0].message
    assert found[0].help
    assert compilation.run_plan is None


def test_what_is_planned_but_not_run_compiles_with_a_warning():
    cluster = {"device": "h100-80gb", "devices_per_node": 2, "kernels": "torch"}
    shared = plan(cluster=cluster, student={"parallel": {"context": 2}})
    compilation = compile_plan(shared, facts(device="h100-80gb"), "test")
    found = first("GK591", compilation.diagnostics)
    assert found.path == "student.parallel.context"
    assert found.severity is Severity.WARNING
    assert found.label == "planned, but not yet run"
    assert compilation.run_plan is not None


def test_bounded_scores_need_the_kernels_of_torch():
    bounded = replace(TINY, attention=AttentionShape(softcap=50.0))
    models = facts(student=bounded, device="h100-80gb")
    cluster = {"device": "h100-80gb"}
    compilation = compile_plan(plan(cluster=cluster), models, "test")
    (found,) = [finding for finding in compilation.diagnostics if finding.code == "GK590"]
    assert found.path == "student.model"
    assert found.help == ('set `cluster.kernels` to "torch"',)
    for plain in (
        (plan(cluster={**cluster, "kernels": "torch"}), models),
        (plan(), facts(student=bounded)),
        (plan(cluster=cluster), facts(device="h100-80gb")),
    ):
        assert "GK590" not in {f.code for f in compile_plan(*plain, "test").diagnostics}


def test_every_rule_is_in_the_code_table():
    codes = Counter(rule.code for rule in RULES)
    assert codes.pop("GK590") == 8  # what the plan asks for, and what its models are
    assert codes.pop("GK250") == 2  # a target that no model has, and one that this one lacks
    assert set(codes.values()) == {1}
    assert codes.keys() | {"GK250", "GK301", "GK302", "GK303", "GK590", "GK591"} <= CODES.keys()
