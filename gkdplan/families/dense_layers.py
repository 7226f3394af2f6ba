"""Which layers of a model with experts have none, as configs say it."""

from gkdplan.families.keys import Keys
from gkdplan.shape import ModelShape

MAX_STEP = 2**12


def no_dense_layers(keys: Keys, num_layers: int) -> tuple[int, ...]:
    """Every layer has experts; keys by which another family says otherwise are refused (GK105)."""
    for key, only in (("decoder_sparse_step", 1), ("mlp_only_layers", [])):
        if keys.has(key) and keys.values[key] != only:
            keys.refuse(key, "every layer of the family has experts")
    return ()


def read_by_step(keys: Keys, num_layers: int) -> tuple[int, ...]:
    """Each `decoder_sparse_step`-th layer has experts, but for those of `mlp_only_layers`.

    GK104: a number of no layer. Source: transformers/models/qwen3_moe/modeling_qwen3_moe.py,
    Qwen3MoeDecoderLayer.
    """
    step = keys.count("decoder_sparse_step", MAX_STEP, 1)
    named = keys.layers("mlp_only_layers", num_layers)
    return tuple(layer for layer in range(num_layers) if layer in named or (layer + 1) % step)


def read_first(keys: Keys, num_layers: int) -> tuple[int, ...]:
    """The first `first_k_dense_replace` layers have no experts
    (transformers/models/deepseek_v3/modeling_deepseek_v3.py, DeepseekV3DecoderLayer)."""
    first = keys.values["first_k_dense_replace"] if keys.has("first_k_dense_replace") else None
    number = 0 if first == 0 else keys.count("first_k_dense_replace", MAX_STEP)
    return tuple(range(min(number, num_layers)))


def no_keys_of_dense_layers(shape: ModelShape) -> dict[str, object]:
    """For a family whose every layer has experts."""
    return {}


def written_by_step(shape: ModelShape) -> dict[str, object]:
    """The same keys, of a shape: each dense layer by its number."""
    layers = range(shape.num_layers) if shape.moe is None else shape.moe.dense_layers
    return {"decoder_sparse_step": 1, "mlp_only_layers": list(layers)}


def written_first(shape: ModelShape) -> dict[str, object]:
    """The same key, of a shape whose dense layers are its first."""
    return {"first_k_dense_replace": shape.num_dense_layers}
