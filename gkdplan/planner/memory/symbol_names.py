"""The symbols of formulas, and what they mean."""

from collections.abc import Mapping

from gkdplan.latent import LatentShape

SHAPE_SYMBOLS = {
    "hidden_size": ("h", "hidden size"),
    "ffn_hidden_size": ("F", "width of the gated MLP"),
    "num_attention_heads": ("a", "query heads"),
    "num_kv_heads": ("g", "kv heads"),
    "head_dim": ("d", "size of a head"),
}
EXPERT_SYMBOLS = {
    "num_experts": ("E", "experts of a layer"),
    "num_experts_per_token": ("k", "experts of a token"),
    "expert_ffn_hidden_size": ("Fe", "width of an expert"),
    "shared_ffn_hidden_size": ("Fs", "width of the shared expert"),
}
LATENT_SYMBOLS = {
    "query_rank": ("Lq", "size of the latent of queries"),
    "kv_rank": ("Lk", "size of the latent of keys and values"),
    "rotated_size": ("dr", "coordinates of a head that turn"),
    "value_dim": ("dv", "size of a head's values"),
}
AXIS_SYMBOLS = {
    "tensor": ("t", "tensor degree"),
    "context": ("c", "context degree"),
    "data": ("D", "data degree"),
    "expert": ("e", "expert degree"),
    "expert_tensor": ("x", "expert tensor degree"),
}
OTHER_SYMBOLS = {
    "l": "layers of a chunk",
    "s": "tokens of the longest row",
    "b": "rows of a micro-batch",
    "P": "tokens of a prompt at most",
    "R": "tokens of a response at most",
    "C": "response tokens in the loss at one time",
    "V": "padded vocabulary",
    "v": "ids that the loss is taken over",
    "r": "rank of the adapters",
    "N": "likeliest ids kept of a token",
    "T": "tensor degree of vllm",
    "K": "bytes of vllm's kv cache",
    "B": "bytes of a refit's bucket",
    "G": "bytes of vllm's graphs",
    "o": "bytes of a device's context",
    "n": "bytes of a communicator",
}
Table = Mapping[str, tuple[str, str]]
"""Field -> name and meaning of its symbol."""
ORDER = (
    "l",
    "b",
    "s",
    *"PRCVvEkhagd",
    "dr",
    "dv",
    "Lq",
    "Lk",
    "F",
    "Fe",
    "Fs",
    "r",
    *"NDctexTKBGon",
)
"""How symbols follow each other in a product."""


def latent_symbols(latent: LatentShape) -> dict[str, tuple[str, str]]:
    """Of the latents that there are."""
    has_queries = latent.query_rank is not None
    return {key: name for key, name in LATENT_SYMBOLS.items() if has_queries or key != "query_rank"}
