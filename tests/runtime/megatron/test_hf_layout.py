"""Shards of Megatron's parameters as slices of a checkpoint."""

from collections import Counter
from dataclasses import replace

import pytest

from gkdplan.experts import MoeShape
from gkdplan.families.tensors import expected_tensors
from gkdplan.runtime.megatron.hf_layout import Slice, TensorShard
from gkdplan.shape import ModelShape

SHAPE = ModelShape(
    family="qwen3",
    hidden_size=6,
    num_layers=1,
    num_attention_heads=4,
    num_kv_heads=2,
    head_dim=3,
    ffn_hidden_size=8,
    vocab_size=10,
    max_position_embeddings=16,
    norm_eps=1e-6,
    rope_theta=1e4,
    tied_embeddings=False,
    qkv_bias=True,
    qk_norm=True,
)
EXPERTS = replace(
    SHAPE,
    moe=MoeShape(
        num_experts=2,
        num_experts_per_token=1,
        expert_ffn_hidden_size=4,
        shared_ffn_hidden_size=12,
        shared_expert_gate=True,
    ),
)
PARAMETERS = (
    "embedding.word_embeddings.weight",
    "decoder.layers.0.input_layernorm.weight",
    "decoder.layers.0.self_attention.linear_proj.weight",
    "decoder.layers.0.self_attention.linear_qkv.weight",
    "decoder.layers.0.self_attention.linear_qkv.bias",
    "decoder.layers.0.self_attention.q_layernorm.weight",
    "decoder.layers.0.self_attention.k_layernorm.weight",
    "decoder.layers.0.pre_mlp_layernorm.weight",
    "decoder.final_layernorm.weight",
    "output_layer.weight",
)
DENSE_PARAMETERS = (
    "decoder.layers.0.mlp.linear_fc1.weight",
    "decoder.layers.0.mlp.linear_fc2.weight",
)
EXPERT_PARAMETERS = (
    "decoder.layers.0.mlp.router.weight",
    "decoder.layers.0.mlp.experts.0.linear_fc1.weight",
    "decoder.layers.0.mlp.experts.0.linear_fc2.weight",
    "decoder.layers.0.mlp.experts.1.linear_fc1.weight",
    "decoder.layers.0.mlp.experts.1.linear_fc2.weight",
    "decoder.layers.0.mlp.shared_experts.linear_fc1.weight",
    "decoder.layers.0.mlp.shared_experts.linear_fc2.weight",
    "decoder.layers.0.mlp.shared_experts.gate_weight",
)
MODELS = {
    "dense": (SHAPE, DENSE_PARAMETERS),
    "experts": (EXPERTS, EXPERT_PARAMETERS),
    "mixtral": (
        replace(EXPERTS, family="mixtral", moe=MoeShape(2, 1, expert_ffn_hidden_size=4)),
        EXPERT_PARAMETERS[:5],
    ),
}
REPLICATED = ("norm.weight", "mlp.gate.weight", "moe.gate.weight", "shared_expert_gate.weight")
CUT_BY_COLUMNS = ("o_proj.weight", "down_proj.weight", "w2.weight")


def test_qkv_is_interleaved_by_kv_group() -> None:
    # 4 heads of 3 rows over 2 kv heads: each group holds 2 q heads (6 rows), then k and v (3 rows).
    rows = TensorShard(SHAPE, 10, rank=0, size=1).slices(
        "decoder.layers.0.self_attention.linear_qkv.weight"
    )
    prefix = "model.layers.0.self_attn."
    assert rows == (
        Slice(f"{prefix}q_proj.weight", 0, 0, 6),
        Slice(f"{prefix}k_proj.weight", 0, 0, 3),
        Slice(f"{prefix}v_proj.weight", 0, 0, 3),
        Slice(f"{prefix}q_proj.weight", 0, 6, 12),
        Slice(f"{prefix}k_proj.weight", 0, 3, 6),
        Slice(f"{prefix}v_proj.weight", 0, 3, 6),
    )


def test_with_fewer_kv_heads_than_ranks_a_share_begins_inside_a_group() -> None:
    # 24 interleaved rows over 4 ranks: rank 1 holds rows 6 to 12 = k and v of group 0.
    rows = TensorShard(SHAPE, 12, rank=1, size=4).slices(
        "decoder.layers.0.self_attention.linear_qkv.bias"
    )
    prefix = "model.layers.0.self_attn."
    assert rows == (Slice(f"{prefix}k_proj.bias", 0, 0, 3), Slice(f"{prefix}v_proj.bias", 0, 0, 3))


def test_fc1_joins_the_shares_of_gate_and_up() -> None:
    rows = TensorShard(SHAPE, 10, rank=1, size=2).slices("decoder.layers.0.mlp.linear_fc1.weight")
    assert rows == (
        Slice("model.layers.0.mlp.gate_proj.weight", 0, 4, 8),
        Slice("model.layers.0.mlp.up_proj.weight", 0, 4, 8),
    )


def test_an_expert_of_mixtral_has_its_own_names() -> None:
    shape, _ = MODELS["mixtral"]
    fc1, fc2 = (
        TensorShard(shape, 10, rank=1, size=2).slices(
            f"decoder.layers.3.mlp.experts.7.linear_{layer}.weight"
        )
        for layer in ("fc1", "fc2")
    )
    expert = "model.layers.3.block_sparse_moe.experts.7."
    assert fc1 == (Slice(f"{expert}w1.weight", 0, 2, 4), Slice(f"{expert}w3.weight", 0, 2, 4))
    assert fc2 == (Slice(f"{expert}w2.weight", 1, 2, 4),)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_every_row_and_column_has_exactly_one_owner(model: str, size: int) -> None:
    padded = 12
    shape, parameters = MODELS[model]
    owners: Counter[tuple[str, int]] = Counter()
    for rank in range(size):
        for parameter in PARAMETERS + parameters:
            for piece in TensorShard(shape, padded, rank, size).slices(parameter):
                owners.update((piece.tensor, index) for index in range(piece.start, piece.stop))
    for tensor, lengths in expected_tensors(shape).items():
        dim = 1 if tensor.endswith(CUT_BY_COLUMNS) else 0
        copies = size if tensor.endswith(REPLICATED) else 1
        in_vocabulary = tensor in ("model.embed_tokens.weight", "lm_head.weight")
        length = padded if in_vocabulary else lengths[dim]
        assert {owners.pop((tensor, index)) for index in range(length)} == {copies}
    assert not owners
