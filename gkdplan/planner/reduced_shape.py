"""A model in small sizes that the axes of its layout divide, with every part of the large one."""

from dataclasses import replace
from itertools import islice
from math import gcd, lcm, sqrt

from gkdplan.attention import AttentionShape
from gkdplan.experts import MoeShape
from gkdplan.latent import LatentShape
from gkdplan.planner.layout import layers_of_stages, stage_layers
from gkdplan.planner.reduced_vision import reduced_vision
from gkdplan.rope import LongRopeScaling, RopeScaling
from gkdplan.shape import ModelShape
from gkdplan.spec.models import Parallel
from gkdplan.vision import QwenVision

HEAD_DIM, FFN, EXPERT_FFN = 8, 24, 16
LATENT_RANK = 12
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
    latent = None if shape.latent is None else _latent(shape.latent, head_dim)
    if latent is not None:
        num_heads = num_kv_heads = lcm(axes.tensor, 2)
    hidden_size = num_heads * head_dim * scale
    if isinstance(shape.vision, QwenVision):  # whose heads share the width, in transformers
        head_dim = hidden_size // num_heads
    small = replace(
        shape,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_attention_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=axes.tensor * FFN * scale,
        vocab_size=VOCABULARY_ROWS * scale,
        moe=None if kept.moe is None else _experts(kept.moe, axes),
        attention=_attention(shape, head_dim, kept.attention),
        rope_scaling=_scaling(shape.rope_scaling, int(head_dim * shape.attention.rotary_fraction)),
        latent=latent,
    )
    if shape.vision is None:
        return small
    in_first_chunk = stage_layers(num_layers, axes)[0][0]
    return replace(small, vision=reduced_vision(shape.vision, small, scale, in_first_chunk))


def _latent(latent: LatentShape, head_dim: int) -> LatentShape:
    """Half of a head turns; of values narrower than keys some are left out."""
    return LatentShape(
        query_rank=None if latent.query_rank is None else LATENT_RANK,
        kv_rank=LATENT_RANK,
        rotated_size=head_dim // 2,
        value_dim=head_dim - 2,
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


def _attention(shape: ModelShape, head_dim: int, attention: AttentionShape) -> AttentionShape:
    """With a window that short rows pass. A scale of scores from latents is a share of
    1 / sqrt(size of a key)."""
    if shape.latent is not None and attention.scale is not None:
        attention = replace(attention, scale=attention.scale * sqrt(shape.head_dim / head_dim))
    return replace(attention, window=attention.window and min(attention.window, WINDOW))


def _scaling(scaling: RopeScaling | None, num_rotated: int) -> RopeScaling | None:
    """With as many factors as there are frequencies."""
    if not isinstance(scaling, LongRopeScaling):
        return scaling
    short, long = (f[: num_rotated // 2] for f in (scaling.short_factors, scaling.long_factors))
    return replace(scaling, short_factors=short, long_factors=long)


def _experts(moe: MoeShape, axes: Parallel) -> MoeShape:
    """Two experts a rank of the expert axis, four at least, in two groups where there are such; the
    shared expert as wide as some of them."""
    num_experts = max(4, 2 * axes.expert)
    shared = axes.tensor * axes.expert_tensor * EXPERT_FFN
    routing = moe.routing
    if routing.num_groups > 1:
        routing = replace(routing, num_groups=2, num_groups_per_token=1)
    return MoeShape(
        num_experts=num_experts,
        num_experts_per_token=min(2, moe.num_experts_per_token),
        expert_ffn_hidden_size=axes.expert_tensor * EXPERT_FFN,
        shared_ffn_hidden_size=shared if moe.shared_ffn_hidden_size else 0,
        shared_expert_gate=moe.shared_expert_gate,
        weights_sum_to_one=moe.weights_sum_to_one,
        dense_layers=moe.dense_layers,
        routing=routing,
    )
