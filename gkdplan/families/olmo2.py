"""OLMo 2: norms after attention and MLP only, and over all heads of queries and of keys at once."""

from gkdplan.families.family import Family
from gkdplan.families.names import Names

OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    required=(),
    fixed={"norms": "post", "qk_norm": True, "qk_norm_of_all_heads": True},
    names=Names(
        attention_input_norm=None,
        attention_output_norm="post_attention_layernorm",
        mlp_input_norm=None,
        mlp_output_norm="post_feedforward_layernorm",
    ),
)
