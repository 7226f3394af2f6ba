"""Shards of Megatron's parameters as slices of a checkpoint."""

from collections import Counter
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkdplan.runtime.megatron.hf_layout import Slice, TensorShard
from gkdplan.shape import ModelShape, MoeShape
from gkdplan.tensors import expected_tensors

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
PARAMETERS = (
    "embedding.word_embeddings.weight",
    "decoder.layers.0.input_layernorm.weight",
    "decoder.layers.0.self_attention.linear_proj.weight",
    "decoder.layers.0.self_attention.linear_qkv.weight",
    "decoder.layers.0.self_attention.linear_qkv.bias",
    "decoder.layers.0.self_attention.q_layernorm.weight",
    "decoder.layers.0.self_attention.k_layernorm.weight",
    "decoder.layers.0.pre_mlp_layernorm.weight",
    "decoder.layers.0.mlp.linear_fc1.weight",
    "decoder.layers.0.mlp.linear_fc2.weight",
    "decoder.final_layernorm.weight",
    "output_layer.weight",
)
REPLICATED = ("norm.weight",)


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


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_row_and_column_has_exactly_one_owner(size: int) -> None:
    padded = 12
    owners: Counter[tuple[str, int]] = Counter()
    for rank in range(size):
        for parameter in PARAMETERS:
            for piece in TensorShard(SHAPE, padded, rank, size).slices(parameter):
                owners.update((piece.tensor, index) for index in range(piece.start, piece.stop))
    for tensor, shape in tensor_shapes(SHAPE, num_layers=1).items():
        dim = 1 if tensor.endswith(("o_proj.weight", "down_proj.weight")) else 0
        copies = size if tensor.endswith(REPLICATED) else 1
        in_vocabulary = tensor in ("model.embed_tokens.weight", "lm_head.weight")
        length = padded if in_vocabulary else shape[dim]
        assert {owners.pop((tensor, index)) for index in range(length)} == {copies}
    assert not owners


@given(st.integers(1, 4), st.booleans(), st.booleans(), st.booleans())
def test_tensor_shapes_sum_to_the_shapes_own_count(
    num_layers: int, tied: bool, bias: bool, norm: bool
) -> None:
    shape = replace(SHAPE, num_layers=num_layers, tied_embeddings=tied, qkv_bias=bias, qk_norm=norm)
    sizes = tensor_shapes(shape, num_layers).values()
    assert sum(prod(size) for size in sizes) == shape.num_parameters
