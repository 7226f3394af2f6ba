"""OLMoE: experts in every layer, and norms over all heads of queries and of keys at once."""

from gkdplan.families.experts import OLMOE as OLMOE_EXPERTS
from gkdplan.families.family import Family

OLMOE = Family(
    "olmoe",
    "OlmoeForCausalLM",
    required=(),
    fixed={"qk_norm": True, "qk_norm_of_all_heads": True},
    only={"clip_qkv": (None, "queries, keys and values are not clipped")},
    experts=OLMOE_EXPERTS,
)
