"""A model in small sizes that the axes of its layout divide, with every part of the large one."""

from dataclasses import replace
from itertools import islice
from math import gcd, lcm

from gkdplan.planner.layout import layers_of_stages
from gkdplan.rope import LongRopeScaling, RopeScaling
from gkdplan.shape import AttentionShape, ModelShape, MoeShape
from gkdplan.spec.plan import Parallel

HEAD_DIM, FFN, EXPERT_FFN = 8, 24, 16
WINDOW = 6
"""Positions; rows have up to 30."""
VOCABULARY_ROWS = 264
"""Some more than a tokenizer of bytes has tokens."""
LARGEST_DEGREE = 8


def reduced_axes(parallel: Parallel, num_layers: int, largest: int) -> Parallel:
    """The same axes with degrees up to `largest`; of stages with unequal numbers of layers the
    order of the numbers is kept."""
    names = ("tensor", "pipeline", "virtual_pipeline", "context", "expert", "expert_tensor")
    degrees = {name: min(getattr(parallel, name), largest) for name in names}
    sizes = layers_of_stages(num_layers, parallel)
    kept = (*sizes[: degrees["pipeline"] - 1], sizes[-1])
    order = sorted(set(kept))
    stages = tuple((order.index(size) + 1) * degrees["virtual_pipeline"] for size in kept)
    return Parallel(
        sequence=parallel.sequence, stage_layers=stages if len(order) > 1 else None, **degrees
    )


def reduced_shape(
    shape: ModelShape, planned: Parallel, axes: Parallel, layers_of_a_chunk: int, scale: int
) -> ModelShape:
    """`shape`, planned on the axes `planned`, for the axes `axes`; `scale` times as wide."""
    num_heads, num_kv_heads, head_dim = _heads(shape, planned.tensor, axes.tensor)
    equal = (layers_of_a_chunk * axes.virtual_pipeline,) * axes.pipeline
    num_layers = sum(axes.stage_layers or equal)
    kept = shape.keeping(_kinds_of_layers(shape, num_layers))
    return replace(
        shape,
        hidden_size=num_heads * head_dim * scale,
        num_layers=num_layers,
        num_attention_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=axes.tensor * FFN * scale,
        vocab_size=VOCABULARY_ROWS * scale,
        moe=None if kept.moe is None else _experts(kept.moe, axes),
        attention=_attention(kept.attention),
        rope_scaling=_scaling(shape.rope_scaling, int(head_dim * shape.attention.rotary_fraction)),
    )


def _heads(shape: ModelShape, planned: int, tensor: int) -> tuple[int, int, int]:
    """Query heads, kv heads and their size: grouped where they were, and a kv head shared by
    several tensor ranks where it was."""
    group = min(2, shape.num_attention_heads // shape.num_kv_heads)
    if shape.num_kv_heads < planned:
        num_kv_heads = max(1, tensor * shape.num_kv_heads // planned)
    else:
        num_kv_heads = tensor if tensor > 1 else min(2, shape.num_kv_heads)
    num_heads = lcm(tensor, num_kv_heads * group)
    return num_heads, num_kv_heads, lcm(HEAD_DIM, tensor // gcd(tensor, 2 * num_kv_heads))


def _kinds_of_layers(shape: ModelShape, num_layers: int) -> list[int]:
    """Layers of every kind that the shape has, in its order as far as there is room."""
    attention = shape.attention
    kinds = [
        (
            layer in attention.sliding_layers,
            layer in attention.unrotated_layers,
            shape.experts_of(layer) is None,
        )
        for layer in range(shape.num_layers)
    ]
    firsts = sorted({kind: kinds.index(kind) for kind in kinds}.values())[:num_layers]
    others = (layer for layer in range(shape.num_layers) if layer not in firsts)
    return sorted([*firsts, *islice(others, num_layers - len(firsts))])


def _attention(attention: AttentionShape) -> AttentionShape:
    """With a window that short rows pass."""
    return replace(attention, window=attention.window and min(attention.window, WINDOW))


def _scaling(scaling: RopeScaling | None, num_rotated: int) -> RopeScaling | None:
    """With as many factors as there are frequencies."""
    if not isinstance(scaling, LongRopeScaling):
        return scaling
    short, long = (f[: num_rotated // 2] for f in (scaling.short_factors, scaling.long_factors))
    return replace(scaling, short_factors=short, long_factors=long)


def _experts(moe: MoeShape, axes: Parallel) -> MoeShape:
    """Two experts a rank of the expert axis, four at least."""
    num_experts = max(4, 2 * axes.expert)
    return MoeShape(
        num_experts=num_experts,
        num_experts_per_token=min(2, moe.num_experts_per_token),
        expert_ffn_hidden_size=axes.expert_tensor * EXPERT_FFN,
        shared_ffn_hidden_size=axes.tensor * FFN if moe.shared_ffn_hidden_size else 0,
        shared_expert_gate=moe.shared_expert_gate,
        weights_sum_to_one=moe.weights_sum_to_one,
        dense_layers=moe.dense_layers,
    )
