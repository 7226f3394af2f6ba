"""`cluster.kernels`: who decides them, what the ledger makes of them, what a change asks."""

from dataclasses import replace

import pytest
from planner_facts import facts, plan

from gkdplan.planner.compiler import compile_plan
from gkdplan.planner.memory.activations import layer_bytes
from gkdplan.planner.memory.batch import Batch
from gkdplan.planner.memory.fused import TORCH_ON_CUDA, TRANSFORMER_ENGINE
from gkdplan.planner.memory.model import RankModel
from gkdplan.planner.memory.recompute import chunk_bytes
from gkdplan.planner.memory.stage import whole_model
from gkdplan.runplan.diff import Label, compare
from gkdplan.runplan.models import Recompute
from gkdplan.shape import ModelShape
from gkdplan.vocab import Dtype, Kernels, Phase

LLAMA_8B = ModelShape(
    family="llama",
    hidden_size=4096,
    num_layers=32,
    num_attention_heads=32,
    num_kv_heads=8,
    head_dim=128,
    ffn_hidden_size=14336,
    vocab_size=128256,
    max_position_embeddings=8192,
    norm_eps=1e-5,
    rope_theta=5e5,
    tied_embeddings=False,
    qkv_bias=False,
    qk_norm=False,
)
BATCH = Batch(rows=2, tokens=100)


def rank_model(kernels, dtype=Dtype.BF16, **changes):
    return RankModel(
        LLAMA_8B, dtype, 128256, 1, False, kernels, whole_model(LLAMA_8B.num_layers), **changes
    )


def compiled(device: str, **cluster: str):
    chosen = plan(cluster={"device": device, **cluster}, student={"model": "s", "dtype": "bf16"})
    found = compile_plan(chosen, facts(LLAMA_8B, LLAMA_8B, device), "test")
    assert found.run_plan is not None, found.diagnostics
    return found.run_plan


@pytest.mark.parametrize(
    ("device", "cluster", "expected"),
    [
        ("cpu", {}, Kernels.TORCH),
        ("h100-80gb", {}, Kernels.TRANSFORMER_ENGINE),
        ("h100-80gb", {"kernels": "torch"}, Kernels.TORCH),
    ],
)
def test_a_plan_that_says_nothing_gets_its_devices_own(device, cluster, expected):
    assert compiled(device, **cluster).layout.kernels is expected


def test_another_choice_is_another_run():
    default, chosen = compiled("h100-80gb"), compiled("h100-80gb", kernels="torch")
    assert default.fingerprint != chosen.fingerprint
    labels = {change.path: change.label for change in compare(default, chosen)}
    assert labels["layout.kernels"] is Label.RESTART


def test_a_layer_in_bf16_keeps_as_much_as_transformer_engines():
    """A token: norms 2 x (4 x 4,096 + 4), qkv 6,144, q and k 5,120, context 4,096, log-sum-exp
    4 x 32, MLP 5 x 14,336, all in 2 bytes but the deviations and the log-sum-exp."""
    per_token = 2 * (4 * 4096 + 4) + 2 * (6144 + 5120 + 4096 + 5 * 14336) + 4 * 32
    expected = BATCH.num_tokens * per_token + 4 * BATCH.tokens * 128 * 2
    assert layer_bytes(rank_model(TORCH_ON_CUDA), BATCH) == expected
    assert layer_bytes(rank_model(TRANSFORMER_ENGINE), BATCH) == expected


def test_attention_in_fp32_copies_its_context():
    """But that of one kv head is in order."""
    torchs, others = (
        layer_bytes(rank_model(kernels, Dtype.FP32), BATCH)
        for kernels in (TORCH_ON_CUDA, TRANSFORMER_ENGINE)
    )
    assert torchs - others == BATCH.num_tokens * 4096 * 4
    one = replace(rank_model(TORCH_ON_CUDA, Dtype.FP32), shape=replace(LLAMA_8B, num_kv_heads=1))
    assert layer_bytes(one, BATCH) == layer_bytes(replace(one, fused=TRANSFORMER_ENGINE), BATCH)


def test_norms_of_torch_are_modules_that_can_be_made_again():
    """Of both norms a layer drops the output and the deviation."""
    dropping = Recompute("selective", modules=("layernorm",))
    (kept,), (dropped,) = (
        chunk_bytes(rank_model(TORCH_ON_CUDA, recompute=recompute), BATCH)
        for recompute in (Recompute(), dropping)
    )
    assert kept - dropped == 32 * 2 * BATCH.num_tokens * (2 * 4096 + 4)


def test_clipping_without_transformer_engine_copies_the_largest_gradient():
    rows = {}
    for kernels in Kernels:
        (memory,) = compiled("h200-141gb", kernels=kernels).ledger.classes
        rows[kernels] = memory.phases[Phase.OPTIMIZER].rows["temporaries"]
    assert rows[Kernels.TORCH] - rows[Kernels.TRANSFORMER_ENGINE] == 128256 * 4096 * 4
