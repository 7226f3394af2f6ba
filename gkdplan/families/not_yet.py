"""Architectures that this version knows by name and cannot build, with what it lacks."""

NOT_YET = {
    "deepseek_v32": ("its attention sees only tokens that an indexer of its own chooses",),
}
"""By the `model_type` of a config.json."""
