"""Adapters in the plan and in the ledger, against numbers derived by hand."""

from dataclasses import replace
from typing import Any

import pytest
from planner_facts import QWEN_3B, SMOLLM2, TINY, facts, plan

from gkdplan.experts import MoeShape
from gkdplan.planner.checks.declaration import check_declaration
from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.lora import decide_lora
from gkdplan.planner.memory.fused import TORCH_ON_CPU
from gkdplan.planner.memory.loss import Loss
from gkdplan.planner.memory.model import rank_model
from gkdplan.projections import PROJECTIONS
from gkdplan.report.outline import outline
from gkdplan.runplan.layout import AxisDegrees
from gkdplan.runplan.model import RunPlan
from gkdplan.vocab import Payload, Phase

# SmolLM2: in + out of q and o 576 + 576, of k and v 576 + 192, of gate, up and down 576 + 1536:
# 2 x 1152 + 2 x 768 + 3 x 2112 = 10,176 a layer and rank, of which q and v are 1,920; 30 layers.
EXPERTS = MoeShape(num_experts=8, num_experts_per_token=2, expert_ffn_hidden_size=512)
ALL_OF_SMOLLM2, Q_AND_V_OF_SMOLLM2 = 8 * 30 * 10_176, 8 * 30 * 1_920


def compiled(lora: dict[str, Any], **tables: Any) -> RunPlan:
    """SmolLM2 tuned with adapters; it must compile."""
    student = {"tuning": "lora", "lora": lora} | tables.pop("student", {})
    compilation = compile_plan(
        plan(student=student, **tables), facts(student=SMOLLM2, teacher=SMOLLM2), "test"
    )
    assert compilation.run_plan is not None, compilation.diagnostics
    return compilation.run_plan


def test_all_linear_is_every_projection_and_names_come_in_the_order_of_a_layer():
    assert compiled({}).models.student.lora.targets == PROJECTIONS
    named = compiled({"targets": ("v_proj", "q_proj", "v_proj")}).models.student.lora
    assert named.targets == ("q_proj", "v_proj")
    assert named.num_parameters == Q_AND_V_OF_SMOLLM2


def test_adapters_count_as_pefts_do():
    lora = compiled({}).models.student.lora
    assert lora.num_parameters == ALL_OF_SMOLLM2 == 2_442_240
    assert (lora.rank, lora.alpha, lora.dropout) == (8, 32.0, 0.0)


def test_adapters_of_qwen_have_its_published_size():
    # Qwen2.5-3B, rank 16: q and o 2 x 4096, k and v 2 x 2304, MLP 3 x 13056, in 36 layers:
    # 29,933,568, as PEFT's print_trainable_parameters says of it.
    student = plan(student={"tuning": "lora", "lora": {"rank": 16}}).student
    assert decide_lora(student, QWEN_3B).num_parameters == 16 * 36 * (8192 + 4608 + 39_168)
    assert decide_lora(student, QWEN_3B).num_parameters == 29_933_568


def test_a_frozen_base_costs_its_weights_and_adapters_the_full_rate():
    # All sizes of parts are multiples of 64 and their sum is one of 128, so nothing is padded.
    rows = compiled({}, student={"dtype": "bf16"}).ledger.classes[0].phases[Phase.OPTIMIZER].rows
    assert ALL_OF_SMOLLM2 % 128 == 0
    assert rows["student params"] == 2 * (134_515_008 + ALL_OF_SMOLLM2)
    assert rows["student grads"] == 4 * ALL_OF_SMOLLM2
    assert rows["student main + Adam"] == 12 * ALL_OF_SMOLLM2


def test_the_loss_keeps_no_gradient_of_a_frozen_head():
    models = compiled({}, student={"dtype": "bf16"}).models
    one = AxisDegrees(tensor=1, sequence=False, data=1)
    tuned = rank_model(models.student, one, TORCH_ON_CPU, stage=0)
    teacher = rank_model(models.teacher, one, TORCH_ON_CPU, stage=0)
    of_tuned, of_full = (
        Loss(student, teacher, Payload.HIDDEN, "gloo", 16, 48, vocab_size=490)
        for student in (tuned, replace(tuned, lora=None))
    )
    assert of_tuned.gradient_bytes() == 2 * 48 * 576
    assert of_full.gradient_bytes() == 2 * 48 * 576 + 4 * 49_152 * 576
    assert (of_tuned.kept_bytes(), of_full.kept_bytes()) == (0, 2 * 49_152 * 576)


def test_the_outline_says_what_is_trained():
    text = outline(compiled({"rank": 16, "dropout": 0.05, "targets": ("q_proj", "v_proj")}))
    assert "922 K trained: rank 16, alpha 32, dropout 0.05, on q_proj, v_proj" in text
    assert "2.44 M trained: rank 8, alpha 32, on every projection" in outline(compiled({}))


@pytest.mark.parametrize("targets", [("q_proj",), ("o_proj", "v_proj"), ("all-linear",)])
def test_parts_of_a_shared_kv_head_have_no_adapters(targets):
    found = _findings("GK251", targets, tensor=6)
    (finding,) = found
    assert "set `student.parallel.tensor` to 1 or 2" in finding.help


def test_other_projections_have_adapters_where_ranks_share_kv_heads():
    assert not _findings("GK251", ("o_proj", "gate_proj", "down_proj"), tensor=6)
    assert not _findings("GK251", ("all-linear",), tensor=2)


def test_an_unknown_target_names_the_nearest():
    (finding,) = _findings("GK250", ("q_proj", "dwn_proj"), tensor=1)
    assert finding.path == "student.lora.targets[1]"
    assert '"down_proj"' in finding.help[0]


def test_a_fused_projection_is_one_target_with_one_a():
    # Phi-3-mini: q, k, v and o 3072 wide, an MLP of 8192, in 32 layers, rank 16: as PEFT counts it,
    # qkv 3072 + 9216, o 2 x 3072, gate and up 3072 + 16384, down 8192 + 3072: 49,152.
    phi = replace(TINY, family="phi3", hidden_size=3072, num_layers=32, num_attention_heads=32)
    phi = replace(phi, num_kv_heads=32, head_dim=96, ffn_hidden_size=8192)
    lora = decide_lora(plan(student={"tuning": "lora", "lora": {"rank": 16}}).student, phi)
    assert lora.targets == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert lora.num_parameters == 16 * 32 * 49_152


def test_a_part_of_a_fused_projection_is_no_target():
    (finding,) = _findings("GK250", ("o_proj", "k_proj"), tensor=1, family="phi3")
    assert finding.help == ('write "qkv_proj"',)
    (finding,) = _findings("GK250", ("gate_up_proj",), tensor=1)
    assert finding.help == ('write "gate_proj", "up_proj"',)
    assert not _findings("GK250", ("qkv_proj",), tensor=1, family="phi3")


def test_kv_heads_of_a_fused_projection_are_not_shared():
    (finding,) = _findings("GK251", ("qkv_proj", "down_proj"), tensor=6, family="phi3")
    assert 'set `student.lora.targets` to ["down_proj"]' in finding.help


def test_each_expert_has_adapters_of_its_own():
    # 8 experts 512 wide of hidden size 576 in 30 layers, rank 8: of each 3 x (576 + 512), and of
    # attention q and o 2 x 1152, k and v 2 x 768.
    shape = replace(SMOLLM2, moe=EXPERTS)
    lora = decide_lora(plan(student={"tuning": "lora"}).student, shape)
    assert lora.num_parameters == 8 * 30 * (8 * 3 * 1088 + 3840)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("with Transformer Engine", {"device": "h100-80gb"}),
        ("in qwen2_moe", {"family": "qwen2_moe", "shared": 64}),
        ("with dropout", {"lora": {"dropout": 0.1}}),
        ("without all of gate_proj", {"lora": {"targets": ("up_proj", "down_proj")}}),
    ],
)
def test_experts_have_no_adapters_that_peft_would_not_load(reason, changes):
    (finding,) = _of_experts(**changes)
    assert finding.message.startswith(f"adapters on experts are not available {reason}")
    assert not _of_experts(**changes | {"lora": {"targets": ("q_proj",)}})


def test_experts_have_adapters_where_torch_computes_them():
    assert not _of_experts()
    assert not _of_experts(lora={"targets": ("down_proj",)})
    assert not _of_experts(device="h100-80gb", kernels="torch")


def _of_experts(
    device: str = "cpu",
    kernels: str | None = None,
    family: str = "qwen3_moe",
    shared: int = 0,
    **student: Any,
) -> list[Any]:
    moe = replace(EXPERTS, shared_ffn_hidden_size=shared)
    shape = replace(TINY, moe=moe, family=family)
    tables = {"cluster": {"device": device, "kernels": kernels}}
    tables |= {"student": {"tuning": "lora"} | student}
    findings = check_declaration(plan(**tables), facts(shape, shape, device))
    return [f for f in findings if f.code == "GK590" and "on experts" in f.message]


def _findings(code: str, targets: tuple[str, ...], tensor: int, **changes: str) -> list[Any]:
    """On six ranks, of a student with 6 heads, 2 kv heads and an ffn width of 192."""
    student = {"tuning": "lora", "lora": {"targets": targets}, "parallel": {"tensor": tensor}}
    tables = {"cluster": {"devices_per_node": 6}, "student": student, "batch": {"global": 12}}
    shape = replace(TINY, ffn_hidden_size=192, **changes)
    findings = check_declaration(plan(**tables), facts(student=shape, teacher=shape))
    return [finding for finding in findings if finding.code == code]
