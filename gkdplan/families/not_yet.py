"""Architectures that this version knows by name and cannot build, with what it lacks."""

_LATENT = "its queries, keys and values come from low-rank latents, of which only a part is rotated"
NOT_YET = {
    "deepseek_v2": (_LATENT, "its first layers have no experts, and a shared expert has no gate"),
    "deepseek_v3": (
        _LATENT,
        "its first layers have no experts, and a shared expert has no gate",
        "its router scores by sigmoid, with a bias that only chooses, within groups of experts",
    ),
}
"""By the `model_type` of a config.json."""
