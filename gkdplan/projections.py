"""The linear maps of layers, by the names that Hugging Face gives them."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear maps of a dense layer, by the names that Hugging Face gives them."""
FUSED_PROJECTIONS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""Matrices in which some families lay several of them, one below the other."""
OF_EXPERTS = ("gate_proj", "up_proj", "down_proj")
"""Those that each expert has of its own, where a layer has experts."""


def parts_of(projection: str) -> tuple[str, ...]:
    """Those of PROJECTIONS that a projection of a checkpoint holds."""
    return FUSED_PROJECTIONS.get(projection, (projection,))
