"""DeepSeek-V2 and V3: attention from latents, experts in groups beside a shared one, and first
layers without experts."""

import math
from dataclasses import replace
from typing import Any

from gkdplan.attention import AttentionShape
from gkdplan.families.dense_layers import read_first, written_first
from gkdplan.families.experts import MAX_EXPERTS, ExpertKeys
from gkdplan.families.family import Family
from gkdplan.families.keys import Keys
from gkdplan.families.names import ExpertNames, Names
from gkdplan.families.rope import written_rope
from gkdplan.families.windows import refuse_windows
from gkdplan.latent import LatentShape
from gkdplan.rope import YarnScaling
from gkdplan.routing import Routing
from gkdplan.shape import ModelShape

MAX_SIZE = 2**16
_GREEDY, _IN_GROUPS = "greedy", "group_limited_greedy"
_NAMES = Names(experts=ExpertNames(shared="shared_experts"))


def _read(keys: Keys, num_layers: int) -> dict[str, Any]:
    """Sizes have no defaults: those of transformers fit one model of the family only. A
    `q_lora_rank` of null says that queries have no latent; of a `head_dim` transformers makes
    nothing."""
    refuse_windows(keys, num_layers)
    if "q_lora_rank" not in keys.values:
        keys.count("q_lora_rank", MAX_SIZE)
    latent = LatentShape(
        query_rank=keys.count("q_lora_rank", MAX_SIZE) if keys.has("q_lora_rank") else None,
        kv_rank=keys.count("kv_lora_rank", MAX_SIZE),
        rotated_size=keys.count("qk_rope_head_dim", MAX_SIZE),
        value_dim=keys.count("v_head_dim", MAX_SIZE),
    )
    if latent.rotated_size % 2 and not keys.findings:
        keys.wrong(
            f"`qk_rope_head_dim` = {latent.rotated_size} is odd, and rotary positions turn pairs"
        )
    head_dim = latent.rotated_size + keys.count("qk_nope_head_dim", MAX_SIZE)
    if latent.value_dim > head_dim and not keys.findings:
        keys.refuse("v_head_dim", f"values are no wider than keys, which have {head_dim}")
    attention = AttentionShape(scale=_read_scale(keys, head_dim), rotary_in_pairs=True)
    return {"latent": latent, "head_dim": head_dim, "attention": attention}


def _read_scale(keys: Keys, head_dim: int) -> float | None:
    """1 / sqrt(head_dim), times the square of 0.1 `mscale_all_dim` ln(factor) + 1 where rotary
    positions are stretched."""
    rope = keys.inner("rope_scaling" if keys.table("rope_scaling") else "rope_parameters")
    mscale = rope.number("mscale_all_dim", 0.0, 1e6, 0.0)
    if not mscale or not rope.has("factor"):
        return None
    factor = rope.number("factor", 1.0, 1e6)
    return (0.1 * mscale * math.log(factor) + 1) ** 2 / math.sqrt(head_dim)


def _write(shape: ModelShape) -> dict[str, object]:
    latent = shape.latent
    assert latent is not None, f"{shape.family} has latents"
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_rope_head_dim": latent.rotated_size,
        "qk_nope_head_dim": shape.head_dim - latent.rotated_size,
        "v_head_dim": latent.value_dim,
        "head_dim": latent.rotated_size,
        "rope_parameters": {**written_rope(shape), **_written_scale(shape)},
    }


def _written_scale(shape: ModelShape) -> dict[str, object]:
    """The inverse of `_read_scale`."""
    scale, scaling = shape.attention.scale, shape.rope_scaling
    if scale is None or not isinstance(scaling, YarnScaling):
        return {}
    stretch = math.sqrt(scale * math.sqrt(shape.head_dim))
    return {"mscale_all_dim": (stretch - 1) / (0.1 * math.log(scaling.factor))}


def _read_v2_routing(keys: Keys) -> Routing:
    plain = Routing(scale=_read_routing_scale(keys))
    method = keys.values["topk_method"] if keys.has("topk_method") else _GREEDY
    if method not in (_GREEDY, _IN_GROUPS):
        keys.refuse("topk_method", f"routers of the family choose {_GREEDY} or {_IN_GROUPS}")
    return _in_groups(keys, plain) if method == _IN_GROUPS else plain


def _read_v3_routing(keys: Keys) -> Routing:
    scale = _read_routing_scale(keys)
    return _in_groups(keys, Routing("sigmoid", True, num_scoring_group=2, scale=scale))


def _read_routing_scale(keys: Keys) -> float:
    return keys.number("routed_scaling_factor", 1e-6, 1e6)


def _in_groups(keys: Keys, routing: Routing) -> Routing:
    return replace(
        routing,
        num_groups=keys.count("n_group", MAX_EXPERTS),
        num_groups_per_token=keys.count("topk_group", MAX_EXPERTS),
    )


def _written_routing(routing: Routing) -> dict[str, object]:
    is_in_groups = routing.num_groups > 1
    method = "noaux_tc" if routing.has_choice_bias else _IN_GROUPS if is_in_groups else _GREEDY
    return {
        "topk_method": method,
        "scoring_func": routing.score,
        "n_group": routing.num_groups,
        "topk_group": routing.num_groups_per_token,
        "routed_scaling_factor": routing.scale,
    }


_EXPERTS = ExpertKeys(
    "moe_intermediate_size",
    number="n_routed_experts",
    num_shared="n_shared_experts",
    read_routing=_read_v2_routing,
    write_routing=_written_routing,
    read_dense=read_first,
    write_dense=written_first,
)
_ONLY = {
    "moe_layer_freq": (1, "every layer after the first ones has experts"),
}
DEEPSEEK_V2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    required=(),
    names_code=True,
    only={
        **_ONLY,
        "scoring_func": ("softmax", "routers of the family score by softmax"),
        "norm_topk_prob": (False, "the weights of a token's experts are not scaled to a sum"),
    },
    names=_NAMES,
    experts=_EXPERTS,
    read=_read,
    write=_write,
)
DEEPSEEK_V3 = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    required=(),
    names_code=True,
    only={
        **_ONLY,
        "scoring_func": ("sigmoid", "routers of the family score by sigmoid"),
        "topk_method": ("noaux_tc", "routers of the family choose by scores and biases"),
        "norm_topk_prob": (True, "the weights of a token's experts are scaled to a sum"),
        "rope_interleave": (True, "heads are rotated in pairs"),
    },
    names=_NAMES,
    experts=replace(_EXPERTS, weights_sum_to_one=True, read_routing=_read_v3_routing),
    read=_read,
    write=_write,
)
